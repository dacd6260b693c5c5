"""nat_pico on scikit-learn's 1797 handwritten digits, 8x8 pixels upsampled to 32x32; every fifth image is held out.

Command:  attnzoo train classification/digits
Hardware: TODO
"""

seed = 0
epochs = 30
batch_size = 64

model = dict(name="nat_pico", in_chans=1, drop_path_rate=0.05)

data = dict(name="digits", input_size=(1, 32, 32), mean=(0.5,), std=(0.5,), interpolation="bilinear", crop_pct=1.0)
# shifts of up to one of the eight original pixels: most of what tells writers apart here
augment = [dict(type="RandomAffine", degrees=0, translate=(0.125, 0.125))]

loss = dict(label_smoothing=0.1)
optimizer = dict(opt="adamw", lr=2e-3, weight_decay=0.05)
schedule = [dict(type="OneCycleLR", eta_max=2e-3, pct_start=0.3, by_epoch=False)]
