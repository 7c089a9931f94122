"""The scheduling halves of the declarations here, by vendor."""

from deviceplugin.vendor.declared.scheduling import declared_scheduling

cambricon = declared_scheduling("deviceplugin.vendors.declared:cambricon.yaml")
enflame = declared_scheduling("deviceplugin.vendors.declared:enflame.yaml")
mthreads = declared_scheduling("deviceplugin.vendors.declared:mthreads.yaml")
