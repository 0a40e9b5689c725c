"""Option strings: Python literals with names, as they are typed on a command line.

>>> parse_options("projection_dim=4, hidden=(8, 2), rotary=True")
{'projection_dim': 4, 'hidden': (8, 2), 'rotary': True}
>>> parse_calls("local(window=64), softmax")
[('local', {'window': 64}), ('softmax', {})]
>>> parse_indexed_calls("0:neural(projection_dim=4), 3:local")
{0: ('neural', {'projection_dim': 4}), 3: ('local', {})}
"""
