"""Read the `config.json` of a checkpoint, as Hugging Face's libraries write it, as model facts.

What a config does not say itself comes from its `model_type`, for the types of `hf_types`. Nothing
is guessed: a field about experts that is unknown, or a router that the file does not determine, is
an error of one line.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.matrix.hf_fields import Fields
from harness.matrix.hf_quant import quant_of
from harness.matrix.hf_types import ACTIVATIONS, DTYPES, HARMLESS, SCORING, TYPES, ModelType
from harness.matrix.model_facts import Dtype, ModelFacts, RouterFacts
from moe import activations as moe_activations

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1_000_000  # real files have up to about 100 kB
SECTIONS = ("text_config", "llm_config", "language_config")  # of models that also see or hear
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_K = (
    *("num_experts_per_tok", "num_experts_per_token", "experts_per_token"),
    *("moe_topk", "moe_top_k", "moe_k"),
)
_ABOUT_EXPERTS = re.compile(r"moe|expert|router|routed|topk|top_k|swiglu|scoring|gating")
_WORD = re.compile(r"[^a-z0-9]+")


def read_config(path: Path) -> ModelFacts:
    """Return the facts of a `config.json`, or of the one in a folder.

    Raises UsageError, with one line, for a file that is missing, unreadable, too large, not JSON,
    without experts, of odd types, or with fields about experts that are not known.
    """
    file = path / "config.json" if path.is_dir() else path
    whole_file = Fields(path=str(file), values=_with_modelopt(file, _load(file)))
    fields = _section_with_experts(whole_file)
    facts = _facts(fields, whole_file)
    _check_unknown(fields)
    return facts


def _with_modelopt(file: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values, with the quantization that ModelOpt writes into a file beside this one."""
    beside = file.with_name("hf_quant_config.json")
    if values.get("quantization_config") or file.name != "config.json" or not beside.is_file():
        return values
    stated = Fields(path=str(beside), values=_load(beside))
    section = stated.needed(stated.section("quantization"), "has no quantization")
    return {**values, "quantization_config": {"quant_method": "modelopt", **section}}


def _load(file: Path) -> dict[str, Any]:
    """Return the file's object. Raises UsageError."""
    try:
        if not file.is_file():
            raise UsageError(f"--model {file}: there is no such file")
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            rule = f"larger than {MAX_BYTES:,} bytes, too many for a config.json"
            raise UsageError(f"--model {file}: the file is {rule}")
        value = json.loads(data.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"--model {file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--model {file}: not JSON in UTF-8: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"--model {file}: must hold an object {{...}}, not {type(value).__name__}")
    return value


def _section_with_experts(file: Fields) -> Fields:
    """Return the fields of the text model: the whole file's, or those of one of SECTIONS."""
    sections = [file.values, *(file.section(name) or {} for name in SECTIONS)]
    for values in sections:
        if any(values.get(name) not in (None, 0) for name in EXPERTS):
            return Fields(path=file.path, values=values)
    raise file.error(
        f"has no experts (none of {', '.join(EXPERTS)}): this is not a mixture-of-experts model"
    )


def _facts(fields: Fields, file: Fields) -> ModelFacts:
    name = fields.word("model_type") or "unknown"
    kind = TYPES.get(name, ModelType())
    hidden = fields.needed(fields.whole("hidden_size"), "has no hidden_size")
    experts = fields.needed(fields.whole(*EXPERTS), "has no experts")
    no_top_k = f"has no number of experts per token (none of {', '.join(TOP_K)})"
    top_k = fields.needed(fields.whole(*TOP_K), no_top_k)
    if top_k > experts:
        raise fields.error(f"{top_k} experts per token are more than its {experts} experts")
    intermediate = _intermediate(fields)
    return ModelFacts(
        checkpoint=fields.path,
        source=[f"its own fields, model_type {name}"],
        hidden=hidden,
        intermediate=intermediate,
        experts=experts,
        top_k=top_k,
        router=_router(fields, kind),
        activation=_activation(fields, kind),
        gated=kind.gated,
        expert_bias=kind.expert_bias or bool(fields.flag("mlp_bias", "moe_bias")),
        latent=fields.whole("moe_latent_size"),
        quant=quant_of(fields, file),
        dtype=_dtype(fields, file),
        **_shared(fields, kind, intermediate),
    )


def _intermediate(fields: Fields) -> int:
    names = ("moe_intermediate_size", "moe_ffn_hidden_size", "expert_ffn_hidden_size")
    dense = fields.whole("intermediate_size")  # Mixtral, OLMoE, ...: the experts'
    size = fields.whole(*names)
    text = f"has no intermediate size (none of {', '.join(names)}, intermediate_size)"
    return fields.needed(dense if size is None else size, text)


def _router(fields: Fields, kind: ModelType) -> RouterFacts:
    scoring_names = ("scoring_func", "score_func", "moe_router_score_function")
    scoring = fields.needed(
        fields.word(*scoring_names) or kind.scoring,
        _unsaid(fields, "how the router scores experts", "scoring_func"),
    )
    renormalize = fields.needed(
        _either(fields.flag("norm_topk_prob", "moe_renormalize"), kind.renormalize),
        _unsaid(fields, "whether the chosen weights are made to sum to one", "norm_topk_prob"),
    )
    groups = fields.whole("n_group", "num_expert_group", least=0) or 1
    return RouterFacts(
        scoring=SCORING.get(scoring, _as_word(scoring)),
        renormalize=renormalize,
        bias=_has_bias(fields, kind, scoring),
        groups=groups,
        chosen_groups=min(fields.whole("topk_group", least=0) or 1, groups),
        scale=fields.factor("routed_scaling_factor", "moe_router_topk_scaling_factor") or 1.0,
        weights_input=kind.weights_input,
    )


def _has_bias(fields: Fields, kind: ModelType, scoring: str) -> bool:
    """Return whether a bias enters the choice; a sigmoid router's file must say so, or its type."""
    names = ("use_routing_bias", "moe_router_enable_expert_bias", "use_expert_bias")
    method = fields.word("topk_method")
    value = _either(fields.flag(*names), None if method is None else method == "noaux_tc")
    value = _either(value, kind.bias)
    if value is None and scoring == "softmax":
        return False
    text = _unsaid(fields, "whether a bias enters the choice of experts", names[0])
    return fields.needed(value, text)


def _activation(fields: Fields, kind: ModelType) -> str:
    names = ("mlp_hidden_act", "hidden_act", "hidden_activation")
    word = fields.word(*names)
    alpha, limit = fields.number("swiglu_alpha"), fields.number("swiglu_limit")
    if kind.activation is not None:
        return _with_parameters(kind.activation, alpha, limit)
    name = fields.needed(word, f"has no activation function (none of {', '.join(names)})")
    clamped = "_clamped" if alpha is not None or limit is not None else ""
    return ACTIVATIONS.get(name, _as_word(name)) + clamped


def _with_parameters(name: str, alpha: float | None, limit: float | None) -> str:
    """Return the row's name, or one that no row has if the file gives other parameters."""
    row = moe_activations.ACTIVATIONS.rows.get(name)
    if row is None or (alpha in (None, row.alpha) and limit in (None, row.limit)):
        return name
    parameters = {"alpha": alpha, "limit": limit}
    return _as_word("_".join([name, *(f"{key}_{v:g}" for key, v in parameters.items() if v)]))


def _shared(fields: Fields, kind: ModelType, intermediate: int) -> dict[str, Any]:
    """Return the facts of the always-on experts."""
    counts = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    count = fields.whole(*counts, least=0)
    gated = fields.whole("shared_expert_intermediate_size", least=0)
    width = fields.whole("moe_shared_expert_intermediate_size", "shared_intermediate_size", least=0)
    width = gated or width
    number = kind.shared if count is None else count
    if width and count is None:
        number = 1
    if width and number > 1 and width != number * intermediate:
        raise fields.error(f"is {width} the width of all {number} shared experts, or of each?")
    if not number or width == 0:
        return {"shared_experts": 0}
    return {"shared_experts": number, "shared_intermediate": width, "shared_gate": bool(gated)}


def _dtype(fields: Fields, file: Fields) -> Dtype:
    names = ("torch_dtype", "dtype")
    word = fields.word(*names) or file.word(*names) or "bfloat16"
    if word not in DTYPES:
        raise fields.error(f"dtype must be one of {', '.join(DTYPES)}, not {word!r}")
    return DTYPES[word]


def _check_unknown(fields: Fields) -> None:
    """Raise UsageError for fields about experts that nothing here understands."""
    unknown = [
        name
        for name, value in fields.values.items()
        if _ABOUT_EXPERTS.search(name.lower())
        and name not in fields.asked
        and name not in HARMLESS
        and value not in (None, False)
    ]
    if unknown:
        names = ", ".join(sorted(unknown)[:5])
        raise fields.error(
            f"has fields about experts that are not known: {names}; if they do not change what the "
            "layer computes, remove them from a copy of the file"
        )


def _unsaid(fields: Fields, what: str, name: str) -> str:
    kind = fields.word("model_type")
    known = ", ".join(TYPES)
    return (
        f"does not say {what}, and model_type {kind!r} is not one of {known}; "
        f"add {name} to a copy of the file"
    )


def _either(first: bool | None, second: bool | None) -> bool | None:
    return second if first is None else first


def _as_word(name: str) -> str:
    return _WORD.sub("_", name.lower()).strip("_") or "unnamed"
