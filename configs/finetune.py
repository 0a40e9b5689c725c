"""Trains the model of a run, or one that was imported, further.

python -m jattn import gpt2 ~/models/gpt2 --out runs/gpt2
python train.py --config=configs/finetune.py:runs/gpt2 --config.data.path=my_texts
python train.py --config=configs/finetune.py:runs/gpt2 --config.data.path=my_texts --config.model.layers='0:neural'

The argument is the folder of the run: its model, its data and its weights. Everything can be overridden; what the new
model has besides the old one's weights is initialised anew, and the log lists both (docs/init_from.md).
"""

from pathlib import Path

from jattn.config import Config, OptimConfig
from jattn.errors import UserError
from jattn.training.run import read_config


def get_config(arg: str = "") -> Config:
    if not arg:
        raise UserError("configs/finetune.py takes the folder of a run: --config=configs/finetune.py:runs/digits_vit")
    old = read_config(Path(arg).expanduser())
    return Config(
        init_from=arg,
        epochs=3.0,
        model=old.model,
        data=old.data,
        loss=old.loss,
        optim=OptimConfig(name="adamw", learning_rate=1e-4, weight_decay=0.01, clip_norm=1.0),
    )
