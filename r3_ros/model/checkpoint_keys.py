"""Names of weights: ours, the official ones, and what fits what.

A *name* is an official name without its prefix (``backbone.pretrained.cls_token``); a *key* is
what a file really says (``model.da3.backbone.pretrained.cls_token``); a *parameter* is a name in
our network's ``state_dict``. Nothing here reads tensors: keys and shapes decide.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
import difflib
import itertools

from torch import nn

Shape = tuple[int, ...]

#: Wrappers around the network that left their name in front of every key.
_PREFIXES = ('net.', 'module.', 'model.', 'da3.')
#: In nested DA3 files the any-view network is under ``da3.`` and the metric one under this.
_METRIC = 'da3_metric.'
#: Parts of official files that a network here may lack, and what they are.
_IGNORED = {
    'cam_enc': 'the pose encoder',
    'aux_cam_decs': 'additional camera heads',
    'gs_head': 'the Gaussian head',
    'gs_adapter': 'the Gaussian head',
    'projections': 'projections used in training',
}
#: What the official modules keep in ``head.scratch``; ours has it in ``head`` itself.
_SCRATCH = ('layer', 'refinenet', 'output_conv', 'sky_output_conv')
#: Older files have one confidence for both; it then counts for translation, too.
_CONFIDENCE_T, _CONFIDENCE = 'cam_dec.fc_rel_conf_t.', 'cam_dec.fc_rel_conf.'

_LISTED = 5
_LONGEST_SHOWN = 120
#: Names that one is compared with: more than any network has, so that an absurd file costs little.
_COMPARED = 2000
#: How alike (0 to 1) names must be to be proposed: one that fits nothing else, and any other.
_LIKELY_SIMILARITY, _SIMILARITY = 0.85, 0.6


def official_name(parameter: str) -> str:
    """Return the official name of a parameter of ours, without prefix.

    The one place that knows where the two differ.
    """
    part, _, rest = parameter.partition('.')
    if part == 'backbone':
        return f'backbone.pretrained.{rest}'
    if part == 'head' and rest.startswith(_SCRATCH):
        return f'head.scratch.{rest}'
    return parameter


def shown(key: str) -> str:
    """Return a key as part of a one-line message, whatever a damaged file calls its tensors."""
    key = key if key.isprintable() else ascii(key)
    return key if len(key) <= _LONGEST_SHOWN else f'{key[:_LONGEST_SHOWN]}...'


@dataclass(frozen=True)
class NetworkKeys:
    """What a network wants to be filled with.

    :ivar shapes: of every name, aliases included.
    :ivar parameters: our parameter for every name.
    :ivar groups: names of one and the same parameter, in the order torch would load them.
    """

    shapes: Mapping[str, Shape]
    parameters: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, network: nn.Module) -> NetworkKeys:
        """Return the names of a network, which may be on the meta device."""
        shapes, parameters = {}, {}
        groups: dict[int, list[str]] = defaultdict(list)
        for parameter, tensor in network.state_dict(keep_vars=True).items():
            name = official_name(parameter)
            shapes[name] = tuple(tensor.shape)
            parameters[name] = parameter
            groups[id(tensor)].append(name)
        return cls(shapes, parameters, tuple(map(tuple, groups.values())))

    def has_part(self, part: str) -> bool:
        """Say whether any name begins with this part."""
        return any(name.startswith(f'{part}.') for name in self.shapes)


class FileKeys:
    """The keys of a file by name, its nested networks told apart.

    :ivar shapes: of every key.
    :ivar prefix: what stands before most names.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        """Sort the keys of a file.

        :raises ValueError: two keys are one and the same name.
        """
        self.shapes = shapes
        self._any_view: dict[str, str] = {}
        self._metric: dict[str, str] = {}
        prefixes: Counter[str] = Counter()
        for key in shapes:
            name, names = _without_prefixes(key), self._any_view
            if name.startswith(_METRIC):
                name, names = _without_prefixes(name[len(_METRIC) :]), self._metric
            if name in names:
                raise ValueError(
                    f'{shown(names[name])} and {shown(key)} are both {shown(name)}; '
                    'keep one network per file'
                )
            names[name] = key
            prefixes[key[: len(key) - len(name)]] += 1
        self.prefix = prefixes.most_common(1)[0][0] if prefixes else ''

    @property
    def holds_both(self) -> bool:
        """Say whether an any-view and a metric network are nested in the file."""
        return bool(self._any_view and self._metric)

    def fit(self, wanted: NetworkKeys, metric: bool) -> Fit:
        """Say which key fills which name of a network, and what does not fit.

        :param metric: in a nested file, take the metric network.
        """
        metric = metric and bool(self._metric)
        names, others = self._any_view, self._metric
        if metric:
            names, others = others, names
        fit = Fit(self, wanted)
        if others:
            what = 'da3' if metric else 'da3_metric'
            fit.notes.append(f'ignored {len(others)} tensors {what}.*: another network')
        if metric:
            # What is no part of the other network is as unexpected as in any file.
            fit.unexpected += [
                key for name, key in others.items() if 'da3.' not in key.removesuffix(name)
            ]
        fit.take(names)
        return fit


@dataclass
class Fit:
    """How a file fills a network, or why it does not.

    :ivar sources: for every group of names that can be filled (by its first name) the key.
    :ivar notes: what was ignored or made up for, one line each.
    :ivar missing: names; ``unexpected`` and ``misshaped``: keys.
    """

    file: FileKeys
    wanted: NetworkKeys
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: dict[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> int:
        """The number of tensors that do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    def take(self, names: Mapping[str, str]) -> None:
        """Assign the keys of a file, by name."""
        self._set_aside(names)
        for name, key in names.items():
            if name in self.wanted.shapes and self.file.shapes[key] != self.wanted.shapes[name]:
                self.misshaped[key] = name
        for group in self.wanted.groups:
            present = [names[name] for name in group if name in names]
            if present:
                # torch would load one after the other into the one parameter.
                self.sources[group[0]] = present[-1]
            else:
                self.missing.append(group[0])
        self._fill_translation_confidence()

    def _set_aside(self, names: Mapping[str, str]) -> None:
        """Sort out the keys that the network has no use for."""
        ignored: Counter[str] = Counter()
        for name, key in names.items():
            part = name.partition('.')[0]
            if part in _IGNORED and not self.wanted.has_part(part):
                ignored[part] += 1
            elif name not in self.wanted.shapes:
                self.unexpected.append(key)
        for part, count in ignored.items():
            self.notes.append(
                f'ignored {count} tensors {part}.*: {_IGNORED[part]}, not in this network'
            )

    def _fill_translation_confidence(self) -> None:
        wanted = [name for name in self.wanted.shapes if name.startswith(_CONFIDENCE_T)]
        twins = [_CONFIDENCE + name[len(_CONFIDENCE_T) :] for name in wanted]
        if not wanted or {*wanted} - {*self.missing} or {*twins} - {*self.sources}:
            return
        for name, twin in zip(wanted, twins, strict=True):
            self.sources[name] = self.sources[twin]
            self.missing.remove(name)
        self.notes.append(
            f'copied {_CONFIDENCE}* to {_CONFIDENCE_T}*: the file is of an older form'
        )

    def description(self) -> str:
        """Return what does not fit, in one line and in the file's words."""
        parts = [
            _listed('missing', self._missing_lines(), len(self.missing)),
            _listed('unexpected', self._unexpected_lines(), len(self.unexpected)),
            _listed('of another shape', self._shape_lines(), len(self.misshaped)),
        ]
        return '; '.join(part for part in parts if part)

    def _missing_lines(self) -> Iterator[str]:
        prefix = self.file.prefix
        for name in self.missing:
            key = prefix + name
            yield shown(key) + _closest(key, self.unexpected, self.file.shapes, 'in the file')

    def _unexpected_lines(self) -> Iterator[str]:
        prefix = self.file.prefix
        missing = [prefix + name for name in self.missing]
        known = [prefix + name for name in self.wanted.shapes]
        for key in self.unexpected:
            yield shown(key) + _closest(key, missing, known, 'in the network')

    def _shape_lines(self) -> Iterator[str]:
        for key, name in self.misshaped.items():
            stored, wanted = self.file.shapes[key], self.wanted.shapes[name]
            yield f'{shown(key)} ({_shape_text(stored)} in the file, {_shape_text(wanted)} wanted)'


def _without_prefixes(key: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if key.startswith(prefix):
                key, stripped = key[len(prefix) :], True
    return key


def _listed(what: str, lines: Iterator[str], count: int) -> str:
    """Return the first few of many lines, and the number of all."""
    if not count:
        return ''
    text = ', '.join(itertools.islice(lines, _LISTED))
    rest = f' and {count - _LISTED} more' if count > _LISTED else ''
    return f'{count} {what}: {text}{rest}'


def _closest(name: str, likely: Sequence[str], known: Iterable[str], where: str) -> str:
    """Return the most similar name, one of the likely ones if they are similar enough."""
    for names, cutoff in ((likely, _LIKELY_SIMILARITY), (known, _SIMILARITY)):
        compared = [each[:_LONGEST_SHOWN] for each in itertools.islice(names, _COMPARED)]
        found = difflib.get_close_matches(name[:_LONGEST_SHOWN], compared, 1, cutoff)
        if found:
            return f' (closest {where}: {shown(found[0])})'
    return ''


def _shape_text(shape: Shape) -> str:
    return 'x'.join(map(str, shape)) if shape else 'a scalar'
