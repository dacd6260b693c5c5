"""Agent-CSWin on ImageNet-1k from scratch, with the recipe of the authors.

The folder data/imagenet contains train/ and val/, each with one folder per class. data.root=... sets another folder,
data.name=wds data.classes=1000 reads shards. Settings and results are from the authors; we have not run this recipe.

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train classification/imagenet_agent_cswin
           model.name=agent_cswin_small: the same recipe; agent_cswin_base: optimizer.weight_decay=0.1 ema.decay=0.99992
Hardware:  8 GPUs, 128 images each (agent_cswin_base: 64, batch_size=512, all learning rates halved)
Source:    Han et al., ECCV 2024 (arXiv:2312.08874); github.com/LeapLabTHU/Agent-Attention,
           agent_transformer/cfgs/agent_cswin_t.yaml and the defaults of agent_transformer/config.py;
           learning rates are those for 512 images, times 2
Published: top-1 83.1 agent_cswin_tiny, 83.9 agent_cswin_small, 84.7 agent_cswin_base
"""

seed = 0
epochs = 310
batch_size = 1024

model = dict(name="agent_cswin_tiny")
data = dict(name="imagefolder", root="data/imagenet", input_size=(3, 224, 224), crop_pct=0.875, interpolation="bicubic")
workers = None

augment = dict(
    auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", re_prob=0.25, re_mode="pixel", color_jitter=0.4
)
mixup = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)
loss = dict(label_smoothing=0.1)

optimizer = dict(opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = dict(sched="cosine", num_epochs=300, cooldown_epochs=10, warmup_epochs=20, warmup_lr=2e-6, min_lr=2e-5)
ema = dict(decay=0.99984)
