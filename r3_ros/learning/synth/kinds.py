"""The kinds of world by name: functions of a random generator and a number of moving bodies."""

from .halls import hall
from .layout import corridor, room
from .outdoors import objects, street

#: In this order: the index of a kind is part of its seeds.
KINDS = {'room': room, 'corridor': corridor, 'street': street, 'objects': objects, 'hall': hall}
