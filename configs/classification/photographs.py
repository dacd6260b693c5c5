"""nat_pico on patches of eight photographs that come with scikit-image: which photograph is a patch of 64x64 from?

Patches to train on are from the left two thirds of a photograph, those to judge by from the right third.

Command:  attnzoo train classification/photographs
Hardware: one core of a shared server CPU with AVX-512 (OMP_NUM_THREADS=1)
Time:     122 CPU-seconds, start included
Expect:   88.2 % of the held-out patches in the epoch that is stored, which is chosen on these same patches; 87.2 %
          after the last
"""

seed = 0
epochs = 24
batch_size = 32

model = dict(name="nat_pico", in_chans=1)

data = dict(
    name="photographs", input_size=(1, 64, 64), mean=(0.5,), std=(0.25,), interpolation="bilinear", crop_pct=1.0
)
# a patch looks alike from every side
augment = [dict(type="RandomHorizontalFlip"), dict(type="RandomVerticalFlip")]

loss = dict(label_smoothing=0.1)
optimizer = dict(opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=2, warmup_lr=1e-5, min_lr=1e-6)
