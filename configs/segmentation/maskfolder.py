"""Trains a segmenter on masks of your own: a folder of pictures and one of masks whose pixels are classes.

Pictures and masks have the same names, in `images/train`, `masks/train`, `images/val` and `masks/val` of data.root, or
as docs/training-data.md says.

Command:  attnzoo train segmentation/maskfolder data.root=streets data.class_map=classes.txt
          data.name=coco or data.name=yolo reads outlines
          model.name=biformer_tiny takes any backbone that has features; model.pretrained=False trains from scratch
          decoder.name=fpn, unet, segformer or deeplabv3plus takes another decoder
          data.resize=cover takes crops of large pictures, and windows of them in evaluation
          loss.name=[cross_entropy,dice] or loss.weight=balanced helps with rare classes
Hardware: any
Time:     depends on the size and the number of pictures
Expect:   depends on the data
"""

task = "segmentation"
seed = 0
epochs = 24
batch_size = 8
workers = None

model = dict(name="nat_mini", pretrained=True, drop_path_rate=0.1)
decoder = dict(name="upernet", channels=256)

data = dict(name="maskfolder", root="data", input_size=(3, 512, 512))
augment = [dict(type="RandomHorizontalFlip"), dict(type="RandomPhotometricDistort", p=0.5)]

loss = dict(name="cross_entropy")
optimizer = dict(opt="adamw", lr=1e-4, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=1, warmup_lr=1e-7, min_lr=1e-6)
clip_grad = 5.0
