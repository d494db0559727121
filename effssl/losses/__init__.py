"""Losses of projections of shape (V, N, D): V views of N images, D wide."""

from effssl.losses.barlow_twins import barlow_twins as barlow_twins
from effssl.losses.coding_rate import coding_rate as coding_rate
from effssl.losses.create import create_loss as create_loss
from effssl.losses.sigreg import sigreg as sigreg
from effssl.losses.simclr import simclr as simclr
from effssl.losses.spectral import spectral as spectral
from effssl.losses.vicreg import vicreg as vicreg
from effssl.losses.wmse import wmse as wmse
