"""torch-rechub's MMoE over rows in memory, once and in their order.

``loop`` says by what: ``trainer`` is its own, fed by a DataLoader of its dataset as in its
examples; ``bare`` takes slices of tensors and leaves out all but forward, backward and Adam.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import MMOE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import TorchDataset


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    data = np.load(asked["rows"])
    # Values as buckets with an embedding each, which is how it takes numbers of any scale. All its
    # embeddings have one width: those of ids are half as wide as ours.
    inputs = {f"column{i}": torch.from_numpy(c) for i, c in enumerate(data["buckets"].T.copy())}
    features = [SparseFeature(name, asked["buckets"] + 1, asked["bucket_size"]) for name in inputs]
    for name in ("user", "query", "item"):
        inputs[name] = torch.from_numpy(data[name])
        features.append(SparseFeature(name, int(data[name].max()) + 1, asked["bucket_size"]))
    labels = torch.from_numpy(data["labels"].astype(np.float32))
    model = MMOE(
        features, ["classification"] * labels.shape[1], asked["experts"],
        {"dims": [asked["expert_hidden"], asked["expert_size"]]},
        [{"dims": [asked["tower_size"]]}] * labels.shape[1],
    )  # fmt: skip
    if asked["loop"] == "trainer":
        print(json.dumps(by_its_trainer(model, inputs, labels, asked)))
        return
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = torch.nn.BCELoss()
    model.train()
    scores, began_s = [], time.perf_counter()
    for start in range(0, len(labels), asked["batch"]):
        part = slice(start, start + asked["batch"])
        found = model({name: column[part] for name, column in inputs.items()})
        ys = labels[part]
        loss = sum(loss_of(found[:, i], ys[:, i]) for i in range(ys.shape[1])) / ys.shape[1]
        model.zero_grad()
        loss.backward()
        optimizer.step()
        # The very scores that were learnt from: each row is judged before it is learnt.
        scores.append(found.detach())
    seconds = time.perf_counter() - began_s
    judged = torch.cat(scores).numpy()
    sizes = {name: p.numel() for name, p in model.named_parameters() if "embed" not in name}
    print(json.dumps({
        "seconds": seconds, "rows": len(judged), "dense_parameters": sum(sizes.values()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "auc": [float(roc_auc_score(data["labels"][:, i], judged[:, i])) for i in range(2)],
    }))  # fmt: skip


def by_its_trainer(
    model: MMOE, inputs: dict[str, torch.Tensor], labels: torch.Tensor, asked: dict[str, Any]
) -> dict[str, Any]:
    """Rows that the model saw in one epoch, and the seconds."""
    seen = 0

    def count(_module: object, _inputs: object, found: torch.Tensor) -> None:
        nonlocal seen
        seen += len(found)

    model.register_forward_hook(count)
    dataset = TorchDataset({k: v.numpy() for k, v in inputs.items()}, labels.numpy())
    loader = DataLoader(dataset, batch_size=asked["batch"])
    trainer = MTLTrainer(model, ["classification"] * labels.shape[1])
    began_s = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train_one_epoch(loader)
    return {"seconds": time.perf_counter() - began_s, "rows": seen}


main()
