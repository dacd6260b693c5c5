"""Trains a detector on boxes of your own, in the format of COCO, YOLO or Pascal VOC.

Annotations and images are found by their usual names in data.root. Without annotations for validation, a fifth of the
images is held out.

Command:  attnzoo train detection/coco data.root=boxes
          data.name=yolo or data.name=voc reads the other formats
          model.name=biformer_tiny takes any backbone that has features; model.pretrained=False trains from scratch
          detector.head=retinanet, faster_rcnn or mask_rcnn (which needs outlines) takes another head
          detector.size=960 takes larger images; detector.resize=stretch changes their aspect ratio
Hardware: any
Time:     depends on the size and the number of images
Expect:   depends on the data
"""

task = "detection"
seed = 0
epochs = 24
batch_size = 8
workers = None

model = dict(name="nat_mini", pretrained=True, drop_path_rate=0.1)
# every image is resized to a square of this size and padded
detector = dict(head="fcos", size=640)

data = dict(name="coco", root="data")
augment = [dict(type="RandomHorizontalFlip"), dict(type="RandomPhotometricDistort", p=0.5)]

optimizer = dict(opt="adamw", lr=2e-4, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=1, warmup_lr=1e-7, min_lr=1e-6)
clip_grad = 5.0
