"""Fine-tunes any model of timm or attnzoo on a folder of images, from its published weights.

The folder contains train/ and val/, each with one folder of images per class; without val/, or if it contains the
folders of the classes itself, a fifth of each class is held out. Alternatively, data.train=... and data.val=... set
two folders or tar files. The number of classes is taken from the folders, and the classifier is new.
Other weights that are new or were adapted to another shape are listed before training.

Command:  attnzoo train classification/imagefolder model.name=biformer_tiny data.root=pictures
          model.pretrained=False trains from scratch (use more epochs); freeze=backbone trains only the classifier;
          ema.decay=0.9998 validates and stores an average of the weights, for thousands of steps or more
          data.input_size=3,384,384 takes larger images; models with position embeddings of a fixed size also need
          model.img_size=384
          batch_size=256 optimizer.lr=4e-4 accumulate=4: larger steps in four batches, to save memory
Hardware: any
Time:     about three forward passes per image and epoch
Expect:   depends on the data
"""

seed = 0
epochs = 30
batch_size = 64

# fine-tuning changes the weights little: a third of the usual drop path rate is enough
model = dict(name="nat_mini", pretrained=True, drop_path_rate=0.1)
data = dict(name="imagefolder", root="data", input_size=(3, 224, 224), crop_pct=0.9, interpolation="bicubic")
workers = None

augment = dict(scale=(0.3, 1.0), auto_augment="rand-m7-mstd0.5-inc1", re_prob=0.1, interpolation="random")
# only half of the batches are mixed, so that a small data set is still learned
mixup = dict(mixup_alpha=0.2, cutmix_alpha=1.0, prob=0.5)
loss = dict(label_smoothing=0.1)

# the first layers have at most a tenth of the learning rate of the classifier
optimizer = dict(opt="adamw", lr=2e-4, weight_decay=0.05, layer_decay=0.75)
schedule = dict(sched="cosine", warmup_epochs=3, warmup_lr=1e-7, min_lr=1e-6)
clip_grad = 1.0
