"""Several machines that run one model together with ``mx.distributed``: agreement and failure."""
