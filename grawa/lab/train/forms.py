"""How optimizers and faults are written on the command line."""

OPTIMIZERS_HELP = (
    "sgd (Nesterov momentum 0.9, weight decay 1e-4), adamw (torch's defaults), adam (adamw without "
    "weight decay) or sam (rho 0.05, on sgd), with options: sgd:momentum=0:weight_decay=0, "
    "sam:rho=0.1:base=adamw"
)

FAULTS_HELP = (
    "wrong-labels:W (all labels of worker W are wrong), noisy-labels=P:W (each is wrong with "
    "probability P), input-noise=S:W (noise on every batch, S times the inputs' standard "
    "deviation; tokens are replaced with probability S), gradient-noise=S:W (noise with S times "
    "the gradient's norm), batch=B:W (B samples per step), batch-xF:W (F times as many samples), "
    "batch-of-one:W, lr-xF:W (learning rate times F), speed=S:W (virtual clock), and, before "
    "local step S: nan:W@S (parameters become NaN), scale-xF:W@S (parameters times F), dead:W@S "
    "(parameters become zero); nan:W@asked and wrong-labels:W@asked, when `grawa chaos` asks for "
    "it; and for all workers: mixed:SEED (a random population: each worker "
    "has its own batch size, label noise, gradient or input noise and, with --clock virtual, "
    "speed), graded-labels (label noise rises linearly from 0 to 0.6), graded-batch (batch sizes "
    "rise linearly from 4 to 32)"
)
