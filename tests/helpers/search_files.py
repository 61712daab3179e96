"""Searches as the Smart Democratization Advisor and SigOpt's users write them."""

SDA_DLRM = """\
project: dlrm
experiment: DLRM
parameters:
- {name: learning_rate, type: int, bounds: {min: 5, max: 50}}
- {name: lamb_lr, type: int, bounds: {min: 5, max: 50}}
- {name: lr_num_warmup_steps, type: int, bounds: {min: 2000, max: 4500}}
- {name: lr_decay_start_step, type: int, bounds: {min: 4501, max: 9000}}
- {name: lr_num_decay_steps, type: int, bounds: {min: 5000, max: 15000}}
- {name: arch_sparse_feature_size, type: int, grid: [128, 64, 16]}
- {name: mlp_top_size, type: int, bounds: {min: 0, max: 7}}
- {name: mlp_bot_size, type: int, bounds: {min: 0, max: 3}}
metrics:
- {name: training_time, objective: minimize, threshold: 10000}
- {name: accuracy, objective: maximize, threshold: 0.6}
observation_budget: 1
"""
SDA_WIDE_DEEP = """\
sigopt:
  project: wideanddeep
  experiment: WnD outbrain
  parameters:
  - {name: dnn_hidden_unit1, type: int, grid: [64, 128, 256, 512, 1024, 2048]}
  - {name: dnn_hidden_unit2, type: int, grid: [64, 128, 256, 512, 1024, 2048]}
  - {name: dnn_hidden_unit3, type: int, grid: [64, 128, 256, 512, 1024, 2048]}
  - {name: deep_learning_rate, type: double, transformation: log, bounds: {min: 1e-4, max: 1e-1}}
  - {name: linear_learning_rate, type: double, transformation: log, bounds: {min: 1.0e-2, max: 1.0}}
  - {name: deep_warmup_epochs, type: int, bounds: {min: 1, max: 8}}
  - {name: deep_dropout, type: double, bounds: {min: 0.1, max: 0.5}}
  metrics:
  - {name: MAP, objective: maximize}
  observation_budget: 5
  parallel_bandwidth: 1
"""
SIGOPT = """\
name: DLRM
metrics:
- {name: AUC, objective: maximize, strategy: optimize, threshold: 0.75}
- {name: training_time, objective: minimize, strategy: optimize, threshold: 600}
- {name: model_bytes, objective: minimize, strategy: constraint, threshold: 1.0e+9}
parameters:
- {name: rate, key: dense_optimizer.lr, type: double, bounds: {min: 0.0001, max: 0.1}, transformation: log}
- {name: batch_size, type: categorical, categorical_values: ["256", "512", "1024"]}
- {name: label_smoothing, type: double, bounds: {min: 0, max: 0.2}, prior: {name: normal, mean: 0.0, scale: 0.1}}
- {name: warm_up, key: schedule.warm_up, type: double, bounds: {min: 0, max: 0.3}}
- {name: decay_start, key: schedule.decay_start, type: double, bounds: {min: 0.2, max: 1}}
linear_constraints:
- {type: greater_than, threshold: 0.1, terms: [{name: decay_start, weight: 1}, {name: warm_up, weight: -1}]}
parallel_bandwidth: 2
budget: 60
"""
