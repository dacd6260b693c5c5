"""nat_pico on patches of eight photographs that come with scikit-image: which photograph is a patch of 64x64 from?

Patches to train on are from the left two thirds of a photograph, those to judge by from the right third.

Command:  attnzoo train classification/photographs
"""

seed = 0
epochs = 12
batch_size = 32

model = dict(name="nat_pico", in_chans=1)

data = dict(
    name="photographs", input_size=(1, 64, 64), mean=(0.5,), std=(0.25,), interpolation="bilinear", crop_pct=1.0
)
# a patch looks alike from everywhere and in any light
augment = [
    dict(type="RandomHorizontalFlip"),
    dict(type="RandomVerticalFlip"),
    dict(type="ColorJitter", brightness=0.3, contrast=0.3),
]

loss = dict(label_smoothing=0.1)
optimizer = dict(opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=2, warmup_lr=1e-5, min_lr=1e-6)
