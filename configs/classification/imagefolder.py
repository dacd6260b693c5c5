"""Fine-tunes any model of timm or of the zoo on a folder of pictures, with its published weights to start from.

The folder holds train/ and val/, each with a folder of pictures per class (or data.train=... and data.val=... name two
folders or tar files). The number of classes is taken from it and the classifier is new; what else is new or was fitted
to another size is said before training.

Command:  attnzoo train classification/imagefolder --cfg-options model.name=biformer_tiny data.root=pictures
          model.pretrained=False starts from nothing (with more epochs); freeze=backbone trains the classifier alone;
          ema.decay=0.9998 judges and stores an average, for thousands of steps and more
          data.input_size=(3,384,384) takes larger pictures; for models whose positions belong to a size with
          model.img_size=384
          batch_size=256 optimizer.lr=4e-4 accumulate=4: larger steps in four parts, where memory is short
Hardware: any
Time:     a model's forward pass on each picture, times three, times epochs
Expect:   what the data gives
"""

seed = 0
epochs = 30
batch_size = 64

# the weights barely move: a third of the usual drop path is plenty
model = dict(name="nat_mini", pretrained=True, drop_path_rate=0.1)
data = dict(name="imagefolder", root="data", input_size=(3, 224, 224), crop_pct=0.9, interpolation="bicubic")
workers = 4

augment = dict(scale=(0.3, 1.0), auto_augment="rand-m7-mstd0.5-inc1", re_prob=0.1, interpolation="random")
# half of the batches are mixed: a small data set is learned in the other half
mixup = dict(mixup_alpha=0.2, cutmix_alpha=1.0, prob=0.5)
loss = dict(label_smoothing=0.1)

# the first layers move a tenth as fast as the classifier or slower
optimizer = dict(opt="adamw", lr=2e-4, weight_decay=0.05, layer_decay=0.75)
schedule = dict(sched="cosine", warmup_epochs=3, warmup_lr=1e-7, min_lr=1e-6)
clip_grad = 1.0
