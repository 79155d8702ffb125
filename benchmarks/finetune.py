"""Fine-tuning a pretrained text encoder: `ivr-dist train` beside a bare loop of PyTorch over padded texts.

    python benchmarks/finetune.py data/mosi_transcripts --config configs/mosi_minilm.yaml --encoder FOLDER
    python benchmarks/finetune.py data/mosei --config configs/mosi_minilm.yaml --encoder FOLDER data.modalities=[text]

`bare` reads the transcripts of the training split into memory, draws batches, pads each to its longest text and trains
the whole encoder with a linear head on the mean of its pieces by AdamW: no multimodal model, no losses but one, no
reading, checks or checkpoints. `ours` is the config as it is, overrides included, in one process. Both have as many
threads. They take turns; figures are medians over the rounds, and `of bare` is the median of the rounds' ratios.

`--json` ends with one JSON object on the last line of stdout; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from typing import Any

from overhead import pace, run

SKIPPED = 5
"""First steps that are not timed."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder or URL with the packed splits of a corpus of transcripts")
    parser.add_argument("overrides", nargs="*", help="keys of the config, such as model.text.trained_layers=3")
    parser.add_argument("--config", required=True)
    parser.add_argument("--encoder", required=True, help="folder of the pretrained encoder")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args()
    if options.bare:
        print(json.dumps(bare(options)))
        return 0
    found: dict[str, list[float]] = {"bare": [], "ours": []}
    for number in range(options.rounds):
        arguments = [sys.executable, __file__, *sys.argv[1:], "--bare"]
        found["bare"].append(run(arguments)[0]["samples_per_s"])
        found["ours"].append(ours(options))
        print(
            f"round {number + 1} of {options.rounds}: bare {found['bare'][-1]:.1f}/s, ours {found['ours'][-1]:.1f}/s",
            file=sys.stderr,
            flush=True,
        )
    row = {name: statistics.median(values) for name, values in found.items()}
    row["of bare"] = statistics.median(own / other for own, other in zip(found["ours"], found["bare"], strict=True))
    stream = sys.stderr if options.json else sys.stdout
    print("  ".join(f"{name:>8}" for name in row), file=stream)
    print("  ".join(f"{value:8.2f}" for value in row.values()), file=stream)
    if options.json:
        print(json.dumps({"corpus": options.corpus, "batch": options.batch, **row, "rounds": found}))
    return 0


def ours(options: argparse.Namespace) -> float:
    """Samples a second of one run of the program."""
    with tempfile.TemporaryDirectory(prefix="ivr-finetune-") as scratch:
        overrides = [
            f"data.train={options.corpus}/train",
            "data.valid=",
            "data.test=",
            f"run.dir={scratch}/run",
            "run.num_workers=0",
            f"model.text.pretrained={options.encoder}",
            f"train.global_batch={options.batch}",
            f"train.max_steps={options.steps}",
            "train.select=last",
            "log.console_s=0",
            *options.overrides,
        ]
        result, lines = run([sys.executable, "-m", "ivr_dist", "train", options.config, *overrides, "--json"])
        return pace(result, lines, options.batch)


def bare(options: argparse.Namespace) -> dict[str, Any]:
    """The bare loop, in this process."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    import ivr_dist as ivr

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.encoder)
    with ivr.open_split(f"{options.corpus}/train") as split:
        texts = [text if isinstance(text := sample.transcript, str) else " ".join(text) for sample in split]
    encoder = AutoModel.from_pretrained(options.encoder).train()
    head = torch.nn.Linear(encoder.config.hidden_size, 1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-5, fused=True)
    drawn = torch.Generator().manual_seed(0)
    for number in range(options.steps):
        if number == SKIPPED:
            started = time.monotonic()
        chosen = torch.randint(len(texts), (options.batch,), generator=drawn).tolist()
        inputs = tokenizer([texts[row] for row in chosen], padding=True, truncation=True, return_tensors="pt")
        mask = inputs["attention_mask"][..., None]
        hidden = (encoder(**inputs).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
        head(hidden).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {"samples_per_s": (options.steps - SKIPPED) * options.batch / (time.monotonic() - started)}


if __name__ == "__main__":
    sys.exit(main())
