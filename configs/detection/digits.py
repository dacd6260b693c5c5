"""FCOS on nat_pico: 1 to 5 of scikit-learn's handwritten digits on each of 1200 canvases of 128 x 128 pixels.

The 200 held-out canvases show digits that are on no other canvas.

Command:  attnzoo train detection/digits
Hardware: one core of a shared server CPU with AVX-512 (OMP_NUM_THREADS=1)
Time:     152 CPU-seconds including startup; 148 s on two cores (OMP_NUM_THREADS=2)
Expect:   AP50 91.0 % and AP 70.2 % on the held-out canvases after the last epoch (seed 1: 93.3 % and 72.4 %; on two
          cores, which sum in another order: 92.8 % and 73.5 %). The best epoch is selected on these canvases.
"""

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
