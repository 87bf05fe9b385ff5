"""How good a co-segmentation is: strict and paper-style metrics, names, calibration of scores. No torch.

`strict` names every region by its key and forgives nothing; `paper` follows the evaluation that CALICO reports (AP50,
mIoU, Recall, SS, S-IoU); `summary.Evaluation` gathers both over many groups into one report.
"""
