"""U-Net on timm's test_resnet: the pixels of up to 9 of scikit-learn's handwritten digits on each of 2000 canvases.

The 200 held-out canvases show digits that are on no other canvas. A small convolutional backbone learns so few digits
fastest; model.name=nat_pico takes attention, for more canvases or epochs.

Command:  attnzoo train segmentation/digits
Hardware: two cores of an idle server CPU (AMD EPYC with AVX-512)
Time:     1:57 minutes including startup, 194 CPU-seconds; up to three times as long on slower or busy cores
Expect:   mIoU 87.7 % on the held-out canvases at the best epoch, which is selected on them, and 87.5 % after the last
"""

task = "segmentation"
seed = 0
epochs = 7
batch_size = 16

model = dict(name="test_resnet")
decoder = dict(name="unet", channels=(96, 64, 48, 32, 16))

data = dict(
    name="digits_on_canvas", input_size=(3, 64, 64), size=64, most=9, smallest=16, largest=22,
    train_images=2000, val_images=200,
)  # fmt: skip

# weights against the background, which most pixels are, cost a mIoU of 2 %: too many pixels around a digit become digit
loss = dict(name="cross_entropy")
optimizer = dict(opt="adamw", lr=3e-3, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=0.8, warmup_lr=1e-4, min_lr=1e-6)
clip_grad = 5.0
