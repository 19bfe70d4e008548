"""`distillspec convert`: checkpoints of other frameworks in, Hugging Face folders and GGUF files out."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser, list_of, one_of
from distillspec_jax.cli.progress import heartbeat
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import news, say

HELP = """Converts a checkpoint of another framework into a checkpoint directory, or a checkpoint directory
into a Hugging Face folder, which transformers loads, or a GGUF file, which llama.cpp does.

  distillspec convert --from=hf --input=FOLDER --output=DIR
  distillspec convert --from=gguf --input=FILE.gguf --output=DIR
  distillspec convert --from=t5x --input=RUN/checkpoint_1000 --mlp_activations=gelu,linear \\
      --tokenizer=spiece.model --output=DIR    (T5X's own format, or Orbax's)
  distillspec convert --to=hf --input=DIR --output=FOLDER
  distillspec convert --to=gguf --type=q8_0 --input=DIR --output=FILE.gguf

Hugging Face: T5, T5Gemma, Llama, Mistral, Qwen2, Qwen3, Gemma 3, GPT-2. GGUF: Llama, Qwen2, Qwen3, Gemma 3,
read in any quantisation.

Without a tokenizer it still converts the weights, but the model cannot read text: give --tokenizer=FILE.
The ids that end a text come from the input's files, or from --eos_ids.
"""

_T5X_FIELDS = ("mlp_activations", "relpos_max_distance", "dropout_rate", "decoder_start_id")


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("convert", HELP)
    add = parser.add_argument
    add("--from", dest="source", type=one_of("gguf", "hf", "t5x"), help="the format to read: gguf, hf or t5x")
    add("--to", type=one_of("gguf", "hf"), help="the format to write: gguf or hf")
    add("--type", type=one_of("f32", "f16", "q8_0"), help="type of GGUF weights: f32 (default), f16 or q8_0")
    add("--input", required=True, metavar="PATH", help="the folder, file or zoo:NAME to read")
    add("--output", required=True, metavar="PATH", help="the folder (new or empty) or GGUF file to write")
    add(
        "--tokenizer",
        metavar="FILE",
        help="the tokenizer's file, if the input has none or a wrong one",
    )
    add(
        "--eos_ids",
        type=list_of(int),
        metavar="ID,ID",
        help="ids that end a text, if the input has none or wrong ones",
    )
    group = parser.add_argument_group("settings that a T5X checkpoint does not contain")
    group.add_argument("--mlp_activations", type=list_of(str), help="gelu,linear (T5 1.1) or relu (T5 1.0)")
    group.add_argument("--relpos_max_distance", type=int, help="default: 128")
    group.add_argument("--dropout_rate", type=float, help="default: 0")
    group.add_argument("--decoder_start_id", type=int, help="default: 0")
    flags = parser.parse(argv)
    if (flags.source is None) == (flags.to is None):
        raise UsageError(
            "pass either --from=gguf|hf|t5x (into a checkpoint directory) or --to=gguf|hf (out of one)"
        )
    known = {name: value for name in _T5X_FIELDS if (value := getattr(flags, name)) is not None}
    own = {name: value for name in ("tokenizer", "eos_ids") if (value := getattr(flags, name)) is not None}
    if flags.to is not None and (known or own):
        flag = next(iter(own | known))
        raise UsageError(f"--{flag} belongs to --from: a checkpoint directory tells its own")
    if flags.type is not None and flags.to != "gguf":
        raise UsageError("--type belongs to --to=gguf: the other formats are written in float32")

    from distillspec_jax.interop import convert

    with heartbeat(f"converting {flags.input}"):
        if flags.to is not None:
            if flags.to == "gguf":
                model = convert.export_gguf(flags.input, flags.output, flags.type or "f32")
            else:
                model = convert.export(flags.input, flags.output)
            tokenizer, family, size = model.tokenizer_bytes, model.card.family, model.num_parameters
            skipped: tuple[str, ...] = ()
        else:
            card, read = convert.convert(flags.source, flags.input, flags.output, **own, **known)
            tokenizer, family, size, skipped = read.tokenizer, card.family, read.num_parameters, read.skipped
    say(f"{flags.output}: {family}, {size:,} parameters")
    for left in skipped:
        news(f"{flags.output}: not taken along: {left}")
    if tokenizer is None:
        news(f"{flags.output}: no tokenizer in {flags.input}: texts need one")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="convert"))
