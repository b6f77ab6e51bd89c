"""What the node may do is what it does: the policy for SROS2, and no code from data."""

import ast
import xml.etree.ElementTree as ET

from paths import ROOT
import pytest
from sources import syntax_trees

POLICY = ROOT / 'security' / 'r3_policy.xml'

#: Calls that run what they read, and what to use instead.
DANGEROUS = {
    'eval': 'a parser',
    'exec': 'a parser',
    'pickle.load': '.npz or safetensors',
    'pickle.loads': '.npz or safetensors',
    'torch.load': 'safetensors',
    'yaml.load': 'yaml.safe_load',
    'yaml.unsafe_load': 'yaml.safe_load',
    'yaml.full_load': 'yaml.safe_load',
    'os.system': 'subprocess with a list',
}


def calls(tree):
    """Yield the dotted name and the node of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def safe_loaders(tree):
    """Return the names of YAML loaders that a module derives from the safe one."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(base) for base in node.bases] == ['yaml.SafeLoader']
    }


def test_nothing_that_is_read_is_run():
    wrong = []
    for path, tree in syntax_trees().items():
        for name, node in calls(tree):
            where = f'{path}:{node.lineno}: {name}'
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name == 'yaml.load' and keywords.get('Loader') in safe_loaders(tree):
                continue
            if name in DANGEROUS:
                wrong.append(f'{where}: use {DANGEROUS[name]}')
            if name in ('np.load', 'numpy.load') and keywords.get('allow_pickle') != 'False':
                wrong.append(f'{where} without allow_pickle=False')
            if keywords.get('shell') == 'True':
                wrong.append(f'{where} with shell=True')
    assert not wrong, '\n'.join(wrong)


def test_no_module_imports_pickle():
    for path, tree in syntax_trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, 'module', None)}
                assert not {'pickle', 'dill', 'shelve', 'marshal'} & names, path


def profile():
    (found,) = ET.parse(POLICY).iter('profile')
    return found


def allowed(kind, permission):
    """Return the full names of topics or services with a permission."""
    name = f'{profile().get("ns")}{profile().get("node")}'
    rules = [r for r in profile().iter(f'{kind}s') if r.get(permission) == 'ALLOW']
    return {item.text.replace('~', name, 1) for rule in rules for item in rule}


def test_the_policy_has_the_form_that_sros2_reads():
    root = ET.parse(POLICY).getroot()
    assert root.tag == 'policy' and root.get('version') == '0.2.0'
    assert [enclave.get('path') for enclave in root.iter('enclave')] == ['/r3']
    texts = [item.text for tag in ('topic', 'service') for item in root.iter(tag)]
    assert all(text.startswith(('/', '~/')) and '*' not in text for text in texts)
    for kind in ('topic', 'service'):
        for rule in root.iter(f'{kind}s'):
            assert len(rule.attrib) == 1 and set(rule.attrib.values()) == {'ALLOW'}


@pytest.mark.ros
def test_the_policy_allows_what_the_node_does_and_no_more(graph):
    camera = ('-r', 'image:=/camera/image_raw')
    name = ('r3', '/')
    published, received, served = set(), set(), set()
    for parameters in (
        {'occupancy__enabled': True, 'scale__source': 'odometry'},
        {'input__transport': 'compressed', 'use_sim_time': True},
    ):
        g = graph(arguments=camera, **parameters)
        assert g.node.autostart()
        g.until(lambda g=g: 'set_scale' in str(g.node.get_service_names_and_types_by_node(*name)))
        published |= {n for n, _ in g.node.get_publisher_names_and_types_by_node(*name)}
        received |= {n for n, _ in g.node.get_subscriber_names_and_types_by_node(*name)}
        served |= {n for n, _ in g.node.get_service_names_and_types_by_node(*name)}
        assert not g.node.get_client_names_and_types_by_node(*name)
    assert allowed('topic', 'publish') == published
    assert allowed('topic', 'subscribe') == received
    assert allowed('service', 'reply') == served
    assert not allowed('service', 'request')
