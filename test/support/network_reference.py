"""R3 again, from its description: float64, one loop per head, every matrix written out.

Slow and plain on purpose: explicit attention matrices and masks, resampling as products with
matrices of weights, pairs joined before their first layer. Shares nothing with ``r3_ros.model``
but the names of the parameters.
"""

import math

import torch
from torch.nn import functional as F


class Reference:
    """The arithmetic of one R3 network on one clip."""

    def __init__(self, network):
        """Take the configuration and the weights of a network."""
        self.config = network.config
        self.w = {name: value.double() for name, value in network.state_dict().items()}

    def predict(self, images, sees, pairs, roles=None):
        """Return a dictionary of what a network says of a clip.

        :param images: (S, 3, H, W) between 0 and 1.
        :param sees: (S, S) bool, [i, j]: frame i attends to frame j.
        :param pairs: (S, S) bool, [i, j]: the motion from i to j is asked for.
        :param roles: index of the camera token per frame; None: frame 0 is the reference.
        """
        mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
        features, camera, descriptor = self.backbone((images.double() - mean) / std, sees, roles)
        S, _, H, W = images.shape
        relu = torch.relu
        p = relu(self.linear('cam_dec.backbone.0', camera))
        p = relu(self.linear('cam_dec.backbone.2', p))
        answer = {
            'descriptor': descriptor,
            'camera_feature': p,
            'fov': relu(self.linear('cam_dec.fc_fov.0', p)),
            'pairs': torch.zeros(S, S, 9, dtype=torch.float64),
        }
        for i in range(S):
            for j in range(S):
                if pairs[i, j]:
                    e = relu(self.linear('cam_dec.rel_backbone.0', torch.cat([p[i], p[j]])))
                    e = relu(self.linear('cam_dec.rel_backbone.2', e))
                    ends = ('fc_rel_t', 'fc_rel_qvec', 'fc_rel_conf_t', 'fc_rel_conf')
                    answer['pairs'][i, j] = torch.cat(
                        [self.linear(f'cam_dec.{end}', e) for end in ends]
                    )
        return answer | self.head(features, H, W)

    def linear(self, name, x):
        return x @ self.w[f'{name}.weight'].flatten(1).T + self.w[f'{name}.bias']

    def norm(self, name, x, epsilon):
        x = x - x.mean(dim=-1, keepdim=True)
        x = x / (x.square().mean(dim=-1, keepdim=True) + epsilon).sqrt()
        return x * self.w[f'{name}.weight'] + self.w[f'{name}.bias']

    def backbone(self, x, sees, roles):
        """Map (S, 3, H, W) to four (S, P - 1, 2C) taps, (S, 2C) camera tokens, descriptors."""
        config = self.config.backbone
        S, rows, columns = len(x), x.shape[2] // 14, x.shape[3] // 14
        patches = x.unflatten(3, (columns, 14)).unflatten(2, (rows, 14))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = self.linear('backbone.patch_embed.proj', patches)
        cls = self.w['backbone.cls_token'].expand(S, 1, -1)
        x = torch.cat([cls, x], dim=1) + positions(self.w['backbone.pos_embed'][0], rows, columns)

        grid = [(r + 1.0, c + 1.0) for r in range(rows) for c in range(columns)]
        apart = torch.tensor([(0.0, 0.0), *grid], dtype=torch.float64)
        together = apart.clamp(max=1.0)
        alone = torch.eye(S, dtype=torch.bool)
        taps = []
        for i in range(config.depth):
            if i == config.alternate_from - 1:
                descriptor = x[:, 1:].mean(dim=1)
            if i == config.alternate_from:
                chosen = [0] + [1] * (S - 1) if roles is None else roles
                x = torch.cat([self.w['backbone.camera_token'][0, chosen][:, None], x[:, 1:]], 1)
                local = x
            late = i >= config.alternate_from
            across = late and i % 2 == 1
            x = self.block(
                f'backbone.blocks.{i}',
                x,
                (together if across else apart) if late else None,
                sees if across else alone,
            )
            if not across:
                local = x
            if i in config.taps:
                taps.append((local, x))
        features = [
            torch.cat([near[:, 1:], self.norm('backbone.norm', far[:, 1:], 1e-5)], dim=-1)
            for near, far in taps
        ]
        return features, torch.cat([taps[-1][0][:, 0], taps[-1][1][:, 0]], dim=-1), descriptor

    def block(self, name, x, where, sees):
        out = self.attention(f'{name}.attn', self.norm(f'{name}.norm1', x, 1e-6), where, sees)
        x = x + self.w[f'{name}.ls1.gamma'] * out
        y = self.norm(f'{name}.norm2', x, 1e-6)
        if self.config.backbone.swiglu_width is None:
            y = self.linear(f'{name}.mlp.fc1', y)
            y = self.linear(f'{name}.mlp.fc2', y * 0.5 * (1 + torch.erf(y / math.sqrt(2))))
        else:
            gate, value = self.linear(f'{name}.mlp.w12', y).chunk(2, dim=-1)
            y = self.linear(f'{name}.mlp.w3', gate / (1 + torch.exp(-gate)) * value)
        return x + self.w[f'{name}.ls2.gamma'] * y

    def attention(self, name, x, where, sees):
        S, P, C = x.shape
        q, k, v = self.linear(f'{name}.qkv', x).flatten(0, 1).split(C, dim=-1)
        mask = sees.repeat_interleave(P, 0).repeat_interleave(P, 1)
        heads = []
        for head in range(C // 64):
            part = slice(64 * head, 64 * head + 64)
            a, b = q[:, part], k[:, part]
            if where is not None:
                a = rotated(self.norm(f'{name}.q_norm', a, 1e-5), where.repeat(S, 1))
                b = rotated(self.norm(f'{name}.k_norm', b, 1e-5), where.repeat(S, 1))
            logits = (a @ b.T / 8).masked_fill(~mask, -torch.inf)
            heads.append(logits.softmax(dim=-1) @ v[:, part])
        return self.linear(f'{name}.proj', torch.cat(heads, dim=-1)).unflatten(0, (S, P))

    def head(self, features, H, W):
        rows, columns = H // 14, W // 14
        levels = []
        for k, tap in enumerate(features):
            x = self.linear(f'head.projects.{k}', self.norm('head.norm', tap, 1e-5))
            x = x.transpose(1, 2).unflatten(2, (rows, columns))
            x = x + pixel_embedding(*x.shape[1:], W / H)
            if k < 2:
                x = self.conv(F.conv_transpose2d, f'head.resize_layers.{k}', x, stride=(4, 2)[k])
            if k == 3:
                x = self.conv(F.conv2d, 'head.resize_layers.3', x, stride=2, padding=1)
            levels.append(F.conv2d(x, self.w[f'head.layer{k + 1}_rn.weight'], padding=1))
        depth = self.branch('', levels, 8 * rows, 8 * columns)
        depth = self.conv(F.conv2d, 'head.output_conv1', depth, padding=1)
        depth = resized(depth, H, W)
        depth = depth + pixel_embedding(*depth.shape[1:], W / H)
        depth = self.conv(F.conv2d, 'head.output_conv2.0', depth, padding=1)
        depth = self.conv(F.conv2d, 'head.output_conv2.2', torch.relu(depth))
        ray = self.branch('_aux', levels, 8 * rows, 8 * columns)
        for k in range(5):
            ray = self.conv(F.conv2d, f'head.output_conv1_aux.3.{k}', ray, padding=1)
        ray = ray + pixel_embedding(*ray.shape[1:], W / H)
        ray = self.conv(F.conv2d, 'head.output_conv2_aux.3.0', ray, padding=1)
        ray = self.norm('head.output_conv2_aux.3.2', ray.movedim(1, -1), 1e-5).movedim(-1, 1)
        ray = self.conv(F.conv2d, 'head.output_conv2_aux.3.5', torch.relu(ray))
        return {
            'depth': depth[:, 0].exp(),
            'confidence': 1 + depth[:, 1].exp(),
            'rays': ray[:, :6].movedim(1, -1),
            'ray_confidence': 1 + ray[:, 6].exp(),
        }

    def branch(self, suffix, levels, H, W):
        sizes = [(H, W), *(level.shape[2:] for level in levels[:3])]
        fused = None
        for k in (4, 3, 2, 1):
            name = f'head.refinenet{k}{suffix}'
            level = levels[k - 1]
            x = level if fused is None else fused + self.unit(f'{name}.resConfUnit1', level)
            x = resized(self.unit(f'{name}.resConfUnit2', x), *sizes[k - 1])
            fused = self.conv(F.conv2d, f'{name}.out_conv', x)
        return fused

    def unit(self, name, x):
        y = self.conv(F.conv2d, f'{name}.conv1', torch.relu(x), padding=1)
        return x + self.conv(F.conv2d, f'{name}.conv2', torch.relu(y), padding=1)

    def conv(self, kind, name, x, **options):
        return kind(x, self.w[f'{name}.weight'], self.w[f'{name}.bias'], **options)


def rotated(x, where):
    """Turn (T, 64) by the (T, 2) positions, channel by channel."""
    out = torch.empty_like(x)
    for axis in range(2):
        for k in range(16):
            a, b = x[:, 32 * axis + k], x[:, 32 * axis + k + 16]
            angle = where[:, axis] * 100 ** (-k / 16)
            out[:, 32 * axis + k] = a * angle.cos() - b * angle.sin()
            out[:, 32 * axis + k + 16] = a * angle.sin() + b * angle.cos()
    return out


def positions(table, rows, columns):
    """Resize a (1 + 37 * 37, C) table to (1 + rows * columns, C), bicubic with a = -0.75."""
    if rows == columns == 37:
        return table
    down, across = _cubic(rows), _cubic(columns)
    square = torch.einsum('ra,cb,abd->rcd', down, across, table[1:].unflatten(0, (37, 37)))
    return torch.cat([table[:1], square.flatten(0, 1)])


def _cubic(count):
    """Return (count, 37) weights of a table of 37 for each of the samples."""
    weights = torch.zeros(count, 37, dtype=torch.float64)
    for n in range(count):
        source = (n + 0.5) * 37 / (count + 0.1) - 0.5
        left = math.floor(source)
        for tap in range(left - 1, left + 3):
            d = abs(source - tap)
            near = 1.25 * d**3 - 2.25 * d**2 + 1
            far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[n, min(max(tap, 0), 36)] += near if d <= 1 else far
    return weights


def resized(x, H, W):
    """Resize (..., h, w) bilinearly, corners on corners."""
    return torch.einsum('Hh,Ww,...hw->...HW', _linear(x.shape[-2], H), _linear(x.shape[-1], W), x)


def _linear(old, new):
    weights = torch.zeros(new, old, dtype=torch.float64)
    for n in range(new):
        source = n * (old - 1) / max(new - 1, 1)
        left = min(math.floor(source), old - 1)
        weights[n, left] += 1 - (source - left)
        weights[n, min(left + 1, old - 1)] += source - left
    return weights


def pixel_embedding(channels, height, width, aspect):
    """Return (channels, height, width), value by value from the formula."""
    out = torch.empty(channels, height, width, dtype=torch.float64)
    quarter = channels // 4
    span_u = aspect / math.hypot(aspect, 1) * (width - 1) / width
    span_v = 1 / math.hypot(aspect, 1) * (height - 1) / height
    u = torch.linspace(-span_u, span_u, width, dtype=torch.float64).expand(height, -1)
    v = torch.linspace(-span_v, span_v, height, dtype=torch.float64)[:, None].expand(-1, width)
    for k in range(quarter):
        frequency = 100 ** (-k / quarter)
        out[k], out[quarter + k] = (u * frequency).sin(), (u * frequency).cos()
        out[2 * quarter + k], out[3 * quarter + k] = (v * frequency).sin(), (v * frequency).cos()
    return 0.1 * out
