"""DiNAT and DiNAT-s on ImageNet-1k from scratch, with the recipe of the authors.

The folder data/imagenet contains train/ and val/, each with one folder per class. data.root=... sets another folder,
data.name=wds data.classes=1000 reads shards. Settings and results are from the authors; we have not run this recipe.

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train classification/imagenet_dinat
           model.name=dinat_small, dinat_s_tiny, dinat_isotropic_base ...: the same recipe, with its own drop path
Hardware:  128 images per GPU. The script does not set the number of GPUs; 8 give 1024 as in Swin, whose recipe is used
Source:    Hassani and Shi, arXiv:2209.15001;
           github.com/SHI-Labs/Neighborhood-Attention-Transformer, classification/configs/dinat_tiny.yml,
           dinat_s_tiny.yml and the defaults of classification/train.py
Published: top-1 81.8 dinat_mini, 82.7 dinat_tiny, 83.8 dinat_small, 84.4 dinat_base, 81.8 dinat_s_tiny,
           83.5 dinat_s_small, 83.8 dinat_s_base, 82.1 dinat_isotropic_base
"""

seed = 0
epochs = 310
batch_size = 1024

model = dict(name="dinat_tiny")
data = dict(name="imagefolder", root="data/imagenet", input_size=(3, 224, 224), crop_pct=0.875, interpolation="bicubic")
workers = None

augment = dict(
    auto_augment="rand-m9-mstd0.5-inc1", interpolation="random", re_prob=0.25, re_mode="pixel", color_jitter=0.4
)
mixup = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)
loss = dict(label_smoothing=0.1)

optimizer = dict(opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = dict(sched="cosine", num_epochs=300, cooldown_epochs=10, warmup_epochs=20, warmup_lr=1e-6, min_lr=5e-6)
clip_grad = 5.0
precision = "float16"
