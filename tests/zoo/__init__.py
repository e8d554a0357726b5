"""The zoo: the product's own corpus of labelled training runs, faulty and healthy, and what scores detectors on it."""
