"""nat_pico on 64x64 patches of eight photographs from scikit-image: the class is the photograph of a patch.

Training patches are from the left two thirds of a photograph, validation patches from the right third.

Command:  attnzoo train classification/photographs
Hardware: one core of a shared server CPU with AVX-512 (OMP_NUM_THREADS=1)
Time:     122 CPU-seconds including startup
Expect:   88.2 % accuracy on the held-out patches in the best epoch, which is selected on these patches; 87.2 % after
          the last epoch
"""

seed = 0
epochs = 24
batch_size = 32

model = dict(name="nat_pico", in_chans=1)

data = dict(
    name="photographs", input_size=(1, 64, 64), mean=(0.5,), std=(0.25,), interpolation="bilinear", crop_pct=1.0
)
# patches have no preferred orientation
augment = [dict(type="RandomHorizontalFlip"), dict(type="RandomVerticalFlip")]

loss = dict(label_smoothing=0.1)
optimizer = dict(opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=2, warmup_lr=1e-5, min_lr=1e-6)
