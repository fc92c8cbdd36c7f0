"""What kwok does with pods: its own stages, and ours for pods that misbehave on purpose.

A pod says by its label `deputy.test/behaviour` how it behaves: `crash-loop`, `image-pull`, `never-ready`, or `slow`
(ready after 6 s). kwok's own stage that makes every pod ready is kept from pods with the label.
"""

import pathlib

import yaml

LABEL = '.metadata.labels["deputy.test/behaviour"]'


def compose(shipped):
    """One YAML text of kwok's stages (the file `shipped`) and ours."""
    ours = sorted((pathlib.Path(__file__).parent / "stages").glob("*.yaml"))
    documents = [*yaml.safe_load_all(pathlib.Path(shipped).read_text())]
    for document in documents:
        if document and document["metadata"]["name"] == "pod-ready":
            document["spec"]["selector"]["matchExpressions"].append({"key": LABEL, "operator": "DoesNotExist"})
    for path in ours:
        documents += yaml.safe_load_all(path.read_text())
    return yaml.safe_dump_all([document for document in documents if document], sort_keys=False)
