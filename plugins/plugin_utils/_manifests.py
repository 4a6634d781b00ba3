# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployment's objects as files: manifests, or the templates of a chart. Private to the collection."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable
from itertools import chain
from typing import Any

import yaml
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes import values as described
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import (
    Chosen,
    Digest,
    Document,
    InNamespace,
    KubernetesError,
    Part,
    Value,
    With,
    configurations,
    evaluate,
)

NAME = "skasrc-cavern"
GENERATED = "# Generated from an inventory: change that, or the values.\n"
# Of each process its own, so that no text of a site is one.
_MARK = f"m{secrets.token_hex(16)}"
_PLACE = re.compile(rf"{_MARK}(value|text|with|digest|namespace):(\S*?){_MARK}")
# A key that an object has only on a condition, with its value.
_CONDITIONAL = re.compile(rf"^( *[A-Za-z]+: )(.+){_MARK}when:(\S+)=(\S*?){_MARK}$", re.MULTILINE)
# What no reader of YAML 1.1 or 1.2 takes for a number, a date, a truth value or nothing, if it is none of the words.
_PLAIN = re.compile(r"[A-Za-z/]")
_WORDS = re.compile(r"(?:y|n|yes|no|on|off|true|false|null|nan|inf)\Z", re.IGNORECASE)


class Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and places for values as marks that the chart's expressions replace."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write each thing whole."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Blank lines at the end of a block would be lost where it is included.
    block = "\n" in text and not text.endswith("\n\n") and text[:1] not in (" ", "\n")
    plain = _PLAIN.match(text) is not None and _WORDS.match(text) is None
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if block else None if plain else "'"
    )


def _mark(kind: str, text: str) -> str:
    return f"{_MARK}{kind}:{text}{_MARK}"


def _place(dumper: yaml.SafeDumper, place: Value | With | InNamespace | Digest) -> yaml.Node:
    if isinstance(place, InNamespace):
        text = f"{place.before}{_mark('namespace', '')}{place.after}"
    elif isinstance(place, Digest):
        text = _mark("digest", place.config)
    elif isinstance(place, With):
        text = _mark("with", ",".join((place.path, *chain.from_iterable(place.labels.items()))))
    else:
        text = _mark("text" if place.text else "value", place.path)
        if place.when:
            path, among = (
                (place.when, ()) if isinstance(place.when, str) else (place.when.path, place.when.among)
            )
            text += _mark("when", f"{path}={','.join(among)}")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text)


# Values that come through Ansible are of classes of its own, which have no representer.
Dumper.add_representer(str, _text)
Dumper.add_multi_representer(str, lambda dumper, text: _text(dumper, str(text)))
Dumper.add_multi_representer(int, lambda dumper, number: dumper.represent_int(int(number)))
Dumper.add_multi_representer(dict, lambda dumper, mapping: dumper.represent_dict(dict(mapping)))
Dumper.add_multi_representer(list, lambda dumper, items: dumper.represent_list(list(items)))
Dumper.add_representer(Value, _place)
Dumper.add_representer(With, _place)
Dumper.add_representer(InNamespace, _place)
Dumper.add_representer(Digest, _place)


def dump(document: Any) -> str:
    """Return a document as YAML."""
    text: str = yaml.dump(document, Dumper=Dumper, sort_keys=False, width=10**9, allow_unicode=True)
    return text


def _files(parts: Iterable[Part]) -> dict[str, list[Part]]:
    files: dict[str, list[Part]] = {}
    for part in parts:
        files.setdefault(part.file, []).append(part)
    return files


def manifests(parts: list[Part], values: Document, namespace: str) -> dict[str, str]:
    """Return a directory for Kustomize: the site's objects, and apart from those the smoke test's."""
    written = {
        f"{name}.yaml": GENERATED + "---\n".join(dump(part.document) for part in found)
        for name, found in _files(evaluate(parts, values, namespace)).items()
    }
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        # Cavern gives files to their users, which takes root; all others would do with `restricted`.
        "metadata": {
            "name": namespace,
            "labels": {
                "pod-security.kubernetes.io/enforce": "baseline",
            },
        },
    }
    test = {name: text for name, text in written.items() if name == "smoke.yaml"}
    rest = {name: text for name, text in written.items() if name not in test}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": ["namespace.yaml", *rest],
    }
    return {
        **rest,
        "namespace.yaml": GENERATED + dump(space),
        "kustomization.yaml": GENERATED + dump(kustomization),
        **{f"smoke/{name}": text for name, text in test.items()},
        **(
            {"smoke/kustomization.yaml": GENERATED + dump(kustomization | {"resources": list(test)})}
            if test
            else {}
        ),
    }


def _marked(node: Any, markers: dict[str, str]) -> Any:
    """Put a place for a value where a whole text is its marker."""
    if isinstance(node, str):
        return Value(markers[node]) if node in markers else node
    if isinstance(node, dict):
        return {key: _marked(item, markers) for key, item in node.items()}
    if isinstance(node, list):
        return [_marked(item, markers) for item in node]
    return node


def _expression(match: re.Match[str]) -> str:
    kind, name = match.groups()
    if kind == "namespace":
        return "{{ .Release.Namespace }}"
    if kind == "with":
        path, *labels = name.split(",")
        texts = " ".join(f'"{text}"' for text in labels)
        return f"{{{{ merge (dict {texts}) .Values.{path} | toJson }}}}"
    if kind != "digest":
        return f"{{{{ .Values.{name} | {'toString | ' if kind == 'text' else ''}toJson }}}}"
    included = f'include "{NAME}.config.{name}" .'
    return f'{{{{ printf "%s\\n" ({included}) | fromYaml | toJson | sha256sum | quote }}}}'


def _condition(condition: str | Chosen) -> str:
    if isinstance(condition, str):
        return f".Values.{condition}"
    texts = " ".join(f'"{text}"' for text in condition.among)
    return f"(has .Values.{condition.path} (list {texts}))"


def _conditional(match: re.Match[str]) -> str:
    key, value, path, texts = match.groups()
    condition = Chosen(path, tuple(texts.split(","))) if texts else path
    return f"{{{{- if {_condition(condition)} }}}}\n{key}{value}\n{{{{- end }}}}"


def _template(document: Any, markers: dict[str, str]) -> str:
    """Return a document as a template of Helm."""
    text = dump(document).replace("{{", '{{ "{{" }}')
    text = _PLACE.sub(_expression, _CONDITIONAL.sub(_conditional, text))
    for marker, path in markers.items():
        text = text.replace(marker, f"{{{{ .Values.{path} }}}}")
    if left := re.search(r"\S*values\.invalid\S*", text):
        raise KubernetesError(f"chart: {left[0]} is made from the marker of a value, and is none")
    return text


def _part(part: Part, markers: dict[str, str]) -> str:
    document = _marked(part.document, markers)
    if document["kind"] == "ConfigMap":
        name = document["metadata"]["name"]
        head = _template({key: item for key, item in document.items() if key != "data"}, markers)
        text = f'{head}data:\n{{{{ include "{NAME}.config.{name}" . | indent 2 }}}}\n'
    else:
        text = _template(document, markers)
    if not part.when:
        return f"---\n{text}"
    conditions = " ".join(_condition(condition) for condition in part.when)
    return f"{{{{- if {'and ' if len(part.when) > 1 else ''}{conditions} }}}}\n---\n{text}{{{{- end }}}}\n"


def chart(parts: list[Part], values: Document, markers: dict[str, str], version: str) -> dict[str, str]:
    """Return a chart whose templates have an expression at each place for a value. Raises KubernetesError.

    *markers* are the texts that stand for values in configuration files, with those values' paths.
    """
    files = {
        f"templates/{name}.yaml": "".join(_part(part, markers) for part in found)
        for name, found in _files(parts).items()
    }
    # Apart, since both the ConfigMap and its digest are made from it.
    files["templates/_config.tpl"] = "".join(
        f'{{{{- define "{NAME}.config.{name}" -}}}}\n{_template(data, markers)}{{{{- end }}}}\n'
        for name, data in configurations(parts).items()
    )
    for marker, path in markers.items():
        if not any(f".Values.{path} " in text for text in files.values()):
            raise KubernetesError(
                f"chart: {path} is nowhere in the objects; was the setting that {marker} stands for given with -e?"
            )
    about = {
        "apiVersion": "v2",
        "name": NAME,
        "description": "Cavern, an IVOA VOSpace, and prepare-data, which stages files of a storage element",
        "type": "application",
        "version": version,
        "appVersion": version,
        "kubeVersion": ">=1.29.0-0",
    }
    files["Chart.yaml"] = GENERATED + dump(about)
    files["values.yaml"] = GENERATED + "# README.md has the meaning of each.\n" + dump(values)
    files["values.schema.json"] = json.dumps(described.schema(values), indent=2) + "\n"
    files["README.md"] = _readme(values)
    return files


def _readme(values: Document) -> str:
    rows: dict[str, str] = {}
    for path, value in described.leaves(values).items():
        text = described.described_as(path)[1]
        rows[path] = f"| `{path}` | {text} | `{json.dumps(value)}` |"
    return (
        f"# {NAME}\n\nGenerated by `make chart`. Which services there are, their routes and settings are "
        "those of the inventory that it was made from; what follows is a site's own.\n\n"
        "It takes Secrets and a ConfigMap that it does not make: `make kubernetes-secrets` writes them, or a site has "
        "its own. All objects have fixed names, so a namespace has one release.\n\n"
        "| value | meaning | default |\n| --- | --- | --- |\n" + "\n".join(rows.values()) + "\n"
    )
