"""Names of the rows in `<data set>/results`: the experiment, the params that differ from the commit, the seed."""

import os
from collections.abc import Mapping
from typing import Any

from ruamel.yaml.error import YAMLError

from cluemap.files import parsed_yaml
from cluemap.params import METHOD_BLOCKS, Params
from cluemap.tracking.provenance import commit, committed_text

PARAMS_FILE = "params.yaml"
SHOWN = 4  # changed params in a name; the table's columns and `compare` show all
LONGEST = 120  # characters


def row_name(params: Params) -> str:
    """For instance `few-clues: clues.count=1, seed 0`; without a change, `params of 4787fad, seed 0`.

    The name of a DVC experiment comes first. Changes are counted from params.yaml at the commit that the experiment
    starts from; without git, or for a data set that this file does not have, none is shown.
    """
    revision = os.environ.get("DVC_EXP_BASELINE_REV") or commit()
    changed = changed_params(params.flat(), committed_params(params.dataset, revision)) if revision else []
    what = ", ".join(changed[:SHOWN]) + (f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else "")
    if not what:
        what = f"params of {revision[:7]}" if revision else "params"
    experiment = os.environ.get("DVC_EXP_NAME")
    return (f"{experiment}: " if experiment else "") + f"{what[:LONGEST]}, seed {params.seed}"


def changed_params(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
    """`key=value` for every flat param with another value than before; none if nothing is known about before."""
    if before is None:
        return []
    method = {key: value for key, value in now.items() if key.split(".")[0] in METHOD_BLOCKS}
    return [f"{key}={value}" for key, value in method.items() if value != before.get(key)]


def committed_params(dataset: str, revision: str) -> dict[str, Any] | None:
    """The data set's flat params as params.yaml has them at a commit; None if that file does not know the data set.

    Read as plain YAML: the file of an older commit may lack keys that the present code asks for.
    """
    try:
        tree = parsed_yaml(committed_text(PARAMS_FILE, revision) or "")
    except YAMLError:
        return None
    if not isinstance(tree, dict) or not isinstance(tree.get(dataset), dict):
        return None
    blocks = {name: {**(tree.get(name) or {}), **(tree[dataset].get(name) or {})} for name in METHOD_BLOCKS}
    return {f"{name}.{key}": value for name, block in blocks.items() for key, value in block.items()}
