"""U-Net on timm's test_resnet: the pixels of up to 9 of scikit-learn's handwritten digits on each of 2000 canvases.

The 200 held-out canvases show digits that are on no other canvas. A small convolutional backbone learns so few digits
fastest; model.name=nat_pico takes attention, for more canvases or epochs.

Command:  attnzoo train segmentation/digits
Hardware: one core of a shared server CPU with AVX-512 (OMP_NUM_THREADS=1)
Time:     332 CPU-seconds including startup; 6:15 minutes beside other work, not measured on an idle machine
Expect:   mIoU 85.4 % on the held-out canvases at the best epoch, which is selected on them, and 84.9 % after the last
"""

task = "segmentation"
seed = 0
epochs = 8
batch_size = 16

model = dict(name="test_resnet")
decoder = dict(name="unet", channels=(96, 64, 48, 32, 16))

data = dict(
    name="digits_on_canvas", input_size=(3, 64, 64), size=64, most=9, smallest=16, largest=22,
    train_images=2000, val_images=200,
)  # fmt: skip

# most pixels are background
loss = dict(name="cross_entropy", weight=[0.2] + 10 * [1.0])
optimizer = dict(opt="adamw", lr=3e-3, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=0.8, warmup_lr=1e-4, min_lr=1e-6)
clip_grad = 5.0
