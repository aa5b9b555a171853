"""Programs that `atomml.bench` starts, each with the Python of one library's environment; see `worker_loop`.

They are run by their file name and import nothing of atomml, except ``tdn_worker``, which measures atomml itself.
"""
