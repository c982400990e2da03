"""Pretrained generators of the `diffusers` library as flowgen networks. Nothing heavy is imported here."""

from flowgen import Component, hookimpl

FLOWGEN_API = 2


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component(
            "network",
            "diffusers",
            "flowgen_diffusers.network:PretrainedTransformer",
            "the transformer of a pretrained pipeline of diffusers (LTX-Video, Wan, FLUX.1, Stable Audio, ...)",
        ),
        Component(
            "conditioner",
            "diffusers-text",
            "flowgen_diffusers.text:PromptCondition",
            "a prompt, embedded as the pretrained pipeline embeds it",
        ),
    ]
