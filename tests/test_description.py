# SPDX-License-Identifier: GPL-3.0-or-later
"""The task's description: tclean's parameters as installed, then ptclean's own."""

import inspect
import xml.etree.ElementTree as ET
from pathlib import Path

import casatasks
import pytest

from ptclean.call.description import Constraint, find_ptclean_xml, joined_xml, load, parse

OWN = ["nworkers", "chanchunks", "memory_limit"]


@pytest.fixture
def tclean_xml():
    return Path(casatasks.xml_interface_defs()["tclean"])


def with_types(pairs):
    """Make 5, 5.0 and True different things, which == does not."""
    return [(name, type(value), value) for name, value in pairs]


def task_xml(parameter, rules=""):
    return f"""
    <casaxml><task type="function" name="small" category="imaging">
      <input>{parameter}<constraints>{rules}</constraints></input>
      <returns type="void"/>
    </task></casaxml>"""


def only_parameter(xml):
    (parameter,) = parse(task_xml(xml)).parameters
    return parameter


# tclean's part


def test_parameters_are_those_of_the_installed_tclean_then_three_more():
    stock = inspect.signature(casatasks.tclean).parameters.values()
    ours = load().parameters
    assert with_types((p.name, p.default) for p in ours[:-3]) == with_types(
        (p.name, p.default) for p in stock
    )
    assert with_types((p.name, p.default) for p in ours[-3:]) == with_types(
        [("nworkers", 0), ("chanchunks", -1), ("memory_limit", "0")]
    )


def test_a_parameter_that_casa_adds_shows_up(tclean_xml, tmp_path):
    changed = tmp_path / "tclean.xml"
    added = (
        '<param type="double" name="verynew"><shortdescription>New</shortdescription>'
        '<value type="double">2.5</value></param>'
    )
    text = tclean_xml.read_text()
    changed.write_text(text.replace("<constraints>", f"{added}<constraints>", 1))

    names = [p.name for p in load(changed).parameters]
    assert names[-4:] == ["verynew", *OWN]
    assert load(changed).parameters[-4].default == 2.5
    assert "verynew" not in [p.name for p in load().parameters]


def test_a_default_that_casa_changes_shows_up(tclean_xml, tmp_path):
    changed = tmp_path / "tclean.xml"
    text = tclean_xml.read_text()
    mfs = '<value type="string">mfs</value>'
    assert text.count(mfs) == 1
    changed.write_text(text.replace(mfs, '<value type="string">cube</value>'))
    defaults = {p.name: p.default for p in load(changed).parameters}
    assert defaults["specmode"] == "cube"


def test_a_name_that_both_would_have_is_an_error(tclean_xml, tmp_path):
    changed = tmp_path / "tclean.xml"
    added = '<param type="int" name="chanchunks"><value type="int">1</value></param>'
    text = tclean_xml.read_text()
    changed.write_text(text.replace("<constraints>", f"{added}<constraints>", 1))
    with pytest.raises(ValueError, match=r"^chanchunks: tclean of casatasks "):
        load(changed)


def test_descriptions_are_casas_without_the_escapes_of_generated_code(tclean_xml):
    elements = ET.parse(tclean_xml).iterfind(".//{*}input/{*}param")
    texts = {e.get("name"): e.findtext("{*}description").strip() for e in elements}
    plain = {name: text.replace("\\'", "'") for name, text in texts.items()}
    assert plain != texts
    assert plain == {p.name: p.description for p in load().parameters if p.name not in OWN}
    start = next(p for p in load().parameters if p.name == "start")
    assert "start='1.1GHz'" in start.shortdescription


@pytest.mark.parametrize(
    ("parameter", "operator", "value", "defaults"),
    [
        ("usemask", "equals", "pb", {"pbmask": 0.2}),
        ("calcpsf", "equals", True, {"psfcutoff": 0.35}),
        ("deconvolver", "equals", "hogbom", {}),
        ("deconvolver", "equals", "mtmfs", {"scales": [], "nterms": 2, "smallscalebias": 0.0}),
        ("weighting", "equals", "natural", {"uvtaper": []}),
    ],
)
def test_constraints_are_read(parameter, operator, value, defaults):
    (found,) = (
        rule
        for rule in load().constraints
        if (rule.parameter, rule.operator, rule.value) == (parameter, operator, value)
    )
    assert dict(found.defaults) == defaults


def test_own_parameters_are_a_group_below_nworkers():
    (rule,) = (rule for rule in load().constraints if rule.parameter == "nworkers")
    assert dict(rule.defaults) == {"chanchunks": -1, "memory_limit": "0"}
    own = load().parameters[-3:]
    assert [(p.name, p.subparam) for p in own] == list(zip(OWN, [False, True, True], strict=True))
    assert {p.name: p.default for p in own if p.subparam} == dict(rule.defaults)


def test_the_rule_for_niter_is_a_notequals():
    rules = [rule for rule in load().constraints if rule.parameter == "niter"]
    assert [(rule.operator, rule.value) for rule in rules] == [("notequals", 0)]
    assert dict(rules[0].defaults)["gain"] == 0.1


def test_limits_are_read():
    by_name = {p.name: p for p in load().parameters}
    assert (by_name["robust"].minimum, by_name["robust"].maximum) == (-2.0, 2.0)
    assert (by_name["niter"].minimum, by_name["niter"].maximum) == (None, None)
    assert by_name["savemodel"].allowed == ("none", "virtual", "modelcolumn")
    assert by_name["vis"].types == ("path", "pathVec")
    assert by_name["threshold"].types == ("variant",)
    assert [p.name for p in by_name.values() if p.mustexist] == ["vis"]


# ptclean's part


def test_ptclean_xml_describes_only_what_ptclean_adds():
    own = parse(find_ptclean_xml().read_bytes())
    assert [p.name for p in own.parameters] == OWN
    named = {n for rule in own.constraints for n in (rule.parameter, *dict(rule.defaults))}
    assert named == set(OWN)
    joined = load()
    assert (joined.name, joined.category) == ("ptclean", "imaging")
    assert joined.parameters[-3:] == own.parameters
    for field in ("shortdescription", "description", "returns", "example"):
        assert getattr(joined, field) == getattr(own, field) != ""


@pytest.mark.parametrize("index", [-3, -2, -1], ids=OWN)
def test_own_parameters_are_described(index):
    parameter = load().parameters[index]
    assert 0 < len(parameter.shortdescription) < 70
    assert "\n" not in parameter.shortdescription
    assert f"{parameter.name}=" in parameter.description, "no example"
    assert "default: " in parameter.description


def test_the_example_is_python():
    code = [line for line in load().example.splitlines() if line.startswith("    ")]
    compile("\n".join(line[4:] for line in code), "example", "exec")


# The joined document


def test_joined_document_is_complete_and_well_formed():
    root = ET.fromstring(joined_xml())
    (task,) = root.findall("{*}task")
    assert task.get("name") == "ptclean"
    names = [e.get("name") for e in task.findall("{*}input/{*}param")]
    assert names == [*inspect.signature(casatasks.tclean).parameters, *OWN]
    assert len(task.findall("{*}input/{*}constraints/{*}when")) > 0


def test_joined_document_says_the_same_as_the_description(tmp_path):
    file = tmp_path / "joined.xml"
    file.write_text(joined_xml(), encoding="utf-8")
    assert parse(file.read_bytes()) == load()


# The dialect


@pytest.mark.parametrize(
    ("declared", "value", "default"),
    [
        ("string", '<value type="string"/>', ""),
        ("string", "<value>text</value>", "text"),
        ("int", '<value type="int">-1</value>', -1),
        ("double", '<value type="double">2</value>', 2.0),
        ("bool", '<value type="bool">False</value>', False),
        ("any", '<value type="double">0.0</value>', 0.0),
        ("intVec", '<value type="intVec"><value>1</value><value>2</value></value>', [1, 2]),
        ("intVec", '<value type="intVec"/>', []),
        ("intVec", "<value/>", []),
        ("stringVec", '<value type="vector"><value/></value>', [""]),
        ("doubleVec", '<value type="vector"><value>1</value></value>', [1.0]),
        ("any", '<value type="stringVec">"1arcsec"</value>', []),
    ],
)
def test_default(declared, value, default):
    parameter = only_parameter(f'<param type="{declared}" name="x">{value}</param>')
    assert with_types([("x", parameter.default)]) == with_types([("x", default)])


@pytest.mark.parametrize(
    ("value", "default"),
    [
        ("<value>&quot;&quot;</value>", ""),
        ("<value>[]</value>", []),
        ("<value>True</value>", True),
        ('<value type="double">0.2</value>', 0.2),
        ('<value type="intVec"/>', []),
        ('<value type="string">plain</value>', "plain"),
    ],
)
def test_default_of_a_constraint(value, default):
    rules = (
        f'<when param="a"><equals type="int" value="3"><default param="x">{value}</default>'
        "</equals></when>"
    )
    parameter = '<param type="int" name="x"><value>1</value></param>'
    assert parse(task_xml(parameter, rules)).constraints == (
        Constraint("a", "equals", 3, (("x", default),)),
    )


def test_a_parameter_without_default_is_an_error():
    with pytest.raises(ValueError, match="parameter x has no default value"):
        only_parameter('<param type="int" name="x"/>')


def test_a_default_of_unknown_type_is_an_error():
    with pytest.raises(ValueError, match="cannot read '1' as a value of type 'complex'"):
        only_parameter('<param type="complex" name="x"><value>1</value></param>')
