"""JUnit's XML of a judgement: a test case for each rule. Pure."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET  # nothing is parsed

from dispatchd.judging.judgement import Judgement, Verdict
from dispatchd.redaction.escapes import written_out


def junit_xml(
    suite_name: str, about: str, judgements: Sequence[Judgement], ended: str = ""
) -> str:
    """Return the document.

    Args:
        suite_name: The suite, in one word.
        about: Whatever is judged.
        judgements: One for each rule.
        ended: Reason why the trial ended early, which is an error of its own; empty if it did not.
    """
    count = dict.fromkeys(Verdict, 0)
    suite = ET.Element("testsuite", name=f"dispatchd {suite_name} {written_out(about)}")
    for judgement in judgements:
        count[judgement.verdict] += 1
        rule = judgement.rule
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"{suite_name}.level{judgement.level}",
            name=f"{rule.number} {rule.words}",
        )
        message = written_out(judgement.reason)
        if judgement.verdict is Verdict.BROKEN:
            ET.SubElement(case, "failure", message=message)
        elif judgement.verdict is Verdict.SKIPPED:
            ET.SubElement(case, "skipped", message=message)
    if ended:
        case = ET.SubElement(
            suite, "testcase", classname=suite_name, name="the whole trial"
        )
        ET.SubElement(case, "error", message=written_out(ended))
    suite.attrib |= {
        "tests": str(len(judgements) + bool(ended)),
        "failures": str(count[Verdict.BROKEN]),
        "errors": str(int(bool(ended))),
        "skipped": str(count[Verdict.SKIPPED]),
    }
    ET.indent(suite)
    body = ET.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'
