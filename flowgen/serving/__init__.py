"""A server that samples: jobs by id, in a bounded queue, over HTTP. `flowgen serve` and `flowgen.client`."""
