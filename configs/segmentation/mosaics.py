"""U-Net on timm's test_resnet: which of eight photographs from scikit-image each pixel of a grey mosaic is from.

Mosaics have 2 to 4 regions with straight borders. Those for training show the left two thirds of the photographs, those
for validation the right third.

Command:  attnzoo train segmentation/mosaics
Hardware: one core of a shared server CPU with AVX-512 (OMP_NUM_THREADS=1)
Time:     160 CPU-seconds including startup; not measured on an idle machine
Expect:   mIoU 52.0 % on the held-out mosaics at the best epoch, which is selected on them, and 50.6 % after the last;
          from 27 % for grass to 89 % for the Hubble deep field
"""

task = "segmentation"
seed = 0
epochs = 6
batch_size = 8
val_interval = 2

model = dict(name="test_resnet", in_chans=1)
decoder = dict(name="unet", channels=(64, 48, 32, 16, 8))

data = dict(
    name="mosaics", input_size=(1, 64, 64), mean=(0.5,), std=(0.25,), size=64, most=4, train_images=800,
    val_images=200,
)  # fmt: skip
# patches have no preferred orientation
augment = [dict(type="RandomHorizontalFlip"), dict(type="RandomVerticalFlip")]

optimizer = dict(opt="adamw", lr=3e-3, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=0.8, warmup_lr=1e-4, min_lr=1e-6)
clip_grad = 5.0
