"""nat_pico on scikit-learn's 1797 handwritten digits, 8x8 pixels upsampled to 32x32; every fifth image is held out.

Command:  attnzoo train classification/digits
Hardware: one core of a server CPU with AVX-512, OMP_NUM_THREADS=1
Time:     55 CPU-seconds, start included
Expect:   99.4 % of the held-out images (best epoch, the one that is stored; it is chosen on these images),
          98.9 % after the last epoch; one image is 0.28 %
"""

seed = 0
epochs = 20
# many small steps at half the usual rate: 64 images, or a rate of 2e-3, end about one percent lower
batch_size = 32

model = dict(name="nat_pico", in_chans=1)

data = dict(name="digits", input_size=(1, 32, 32), mean=(0.5,), std=(0.5,), interpolation="bilinear", crop_pct=1.0)
# shifts of up to one of the eight original pixels
augment = [dict(type="RandomAffine", degrees=0, translate=(0.125, 0.125))]

loss = dict(label_smoothing=0.1)
optimizer = dict(opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = [dict(type="OneCycleLR", eta_max=1e-3, pct_start=0.2, by_epoch=False)]
