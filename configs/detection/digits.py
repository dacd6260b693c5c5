"""FCOS on nat_pico: digits on canvases."""

task = "detection"
seed = 0
epochs = 4
batch_size = 8

model = dict(name="nat_pico")
detector = dict(head="fcos", min_size=128, max_size=128, width=64, coarser_levels=0)

data = dict(name="digits_on_canvas", size=128, train_images=1000, val_images=200)

optimizer = dict(opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=0.5, warmup_lr=1e-5, min_lr=1e-6)
clip_grad = 5.0
