"""A stand-in for lmdeploy 0.18.0: modules, names and signatures are its own, which a test compares with the wheel's.

It loads no model: its "model" answers with letters that hang on the last tokens, drawn as the request says. What
happens around that (sessions, aborts, cancellations, errors, held-back characters) follows lmdeploy's source.
"""
