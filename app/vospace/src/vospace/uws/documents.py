"""UWS 1.1 documents (appendix: XML schema `http://www.ivoa.net/xml/UWS/v1.0`, version 1.1)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from lxml import etree

from vospace.uws.model import Job, JobReference, Parameter, Result, format_time

UWS = "http://www.ivoa.net/xml/UWS/v1.0"
XLINK = "http://www.w3.org/1999/xlink"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
NSMAP = {"uws": UWS, "xlink": XLINK, "xsi": XSI}

_SAFE = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)


def job_document(job: Job) -> bytes:
    """A whole job; what is unset is nil, as far as the schema allows."""
    root = _root("job")
    _text(root, "jobId", job.id)
    if job.run_id is not None:  # the schema lets it be missing, but not nil
        _text(root, "runId", job.run_id)
    _text(root, "ownerId", job.owner)
    _text(root, "phase", job.phase.value)
    _time(root, "quote", job.quote)
    _time(root, "creationTime", job.creation_time)
    _time(root, "startTime", job.start_time)
    _time(root, "endTime", job.end_time)
    _text(root, "executionDuration", str(job.execution_duration))
    _time(root, "destruction", job.destruction_time)
    root.append(_parameters(job.parameters))
    root.append(_results(job.results))
    if job.error is not None:
        kind = "transient" if job.error.transient else "fatal"
        summary = etree.SubElement(root, _q("errorSummary"), type=kind, hasDetail="false")
        _text(summary, "message", job.error.message)
    if job.job_info is not None:
        info = etree.SubElement(root, _q("jobInfo"))
        _embed(info, job.job_info)
    return _bytes(root)


def job_list_document(references: Iterable[JobReference], list_url: str) -> bytes:
    """A job list: phase, run id, owner and creation time of each job."""
    root = _root("jobs")
    for reference in references:
        entry = etree.SubElement(root, _q("jobref"), id=reference.id)
        entry.set(f"{{{XLINK}}}type", "simple")
        entry.set(f"{{{XLINK}}}href", f"{list_url}/{reference.id}")
        _text(entry, "phase", reference.phase.value)
        if reference.run_id is not None:
            _text(entry, "runId", reference.run_id)
        _text(entry, "ownerId", reference.owner)
        _time(entry, "creationTime", reference.creation_time)
    return _bytes(root)


def parameters_document(parameters: Iterable[Parameter]) -> bytes:
    return _bytes(_parameters(parameters))


def results_document(results: Iterable[Result]) -> bytes:
    return _bytes(_results(results))


def _parameters(parameters: Iterable[Parameter]) -> etree._Element:
    element = etree.Element(_q("parameters"), nsmap=NSMAP)
    for parameter in parameters:
        child = etree.SubElement(element, _q("parameter"), id=parameter.name)
        child.text = parameter.value
    return element


def _results(results: Iterable[Result]) -> etree._Element:
    element = etree.Element(_q("results"), nsmap=NSMAP)
    for result in results:
        child = etree.SubElement(element, _q("result"), id=result.id)
        child.set(f"{{{XLINK}}}type", "simple")
        child.set(f"{{{XLINK}}}href", result.href)
    return element


def _embed(parent: etree._Element, content: str) -> None:
    """The posted document as it was, or as text if it is no XML."""
    try:
        parent.append(etree.fromstring(content.encode(), _SAFE))
    except etree.XMLSyntaxError:
        parent.text = content


def _root(name: str) -> etree._Element:
    root = etree.Element(_q(name), nsmap=NSMAP)
    root.set("version", "1.1")
    return root


def _text(parent: etree._Element, name: str, value: str | None) -> None:
    child = etree.SubElement(parent, _q(name))
    if value is None:
        child.set(f"{{{XSI}}}nil", "true")
    else:
        child.text = value


def _time(parent: etree._Element, name: str, moment: datetime | None) -> None:
    _text(parent, name, None if moment is None else format_time(moment))


def _q(name: str) -> str:
    return f"{{{UWS}}}{name}"


def _bytes(root: etree._Element) -> bytes:
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)
