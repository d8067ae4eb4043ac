"""A model call of our transformer, written as one list of named inputs."""

from dataclasses import fields

from wan_s2v_pack.wan_s2v_model.transformer.blocks import Compute
from wan_s2v_pack.wan_s2v_model.transformer.model import Conditions


def call(transformer, x, timestep, **inputs):
    """Call a transformer; the other inputs are those of `Conditions`, of `Compute` and of its forward."""

    def take(kind):
        return kind(**{field.name: inputs.pop(field.name) for field in fields(kind) if field.name in inputs})

    conditions, compute = take(Conditions), take(Compute)
    return transformer(x, timestep, conditions, compute, **inputs)
