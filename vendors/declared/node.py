"""The node halves of the declarations here, by vendor."""

from deviceplugin.vendor.declared.node import declared_node

cambricon = declared_node("deviceplugin.vendors.declared:cambricon.yaml")
enflame = declared_node("deviceplugin.vendors.declared:enflame.yaml")
mthreads = declared_node("deviceplugin.vendors.declared:mthreads.yaml")
