/* librocm_smi64: the calls that are made. */
#include "../fake.h"

#define CARD(name) if (i >= (uint32_t)card_count) return 7; \
    int status = guard(name, i); if (status) return status

uint32_t rsmi_init(uint64_t flags) { (void)flags; if (load("FAKE_ROCM_SMI")) return 8; return guard("rsmi_init", -1); }
uint32_t rsmi_shut_down(void) { return 0; }
uint32_t rsmi_num_monitor_devices(uint32_t *out) { *out = card_count; return guard("rsmi_num_monitor_devices", -1); }
uint32_t rsmi_dev_id_get(uint32_t i, uint16_t *out) { CARD("rsmi_dev_id_get"); *out = num(&cards[i], "id", 0x6210); return 0; }
uint32_t rsmi_dev_pci_id_get(uint32_t i, uint64_t *out) {
    CARD("rsmi_dev_pci_id_get");
    *out = (uint64_t)num(&cards[i], "pci", num(&cards[i], "bus", 0x33 + i) << 8);
    return 0;
}
uint32_t rsmi_dev_serial_number_get(uint32_t i, char *out, uint32_t size) {
    CARD("rsmi_dev_serial_number_get");
    char text[32];
    snprintf(text, sizeof text, "TR%u", i);
    put(out, size, get(&cards[i], "serial", text));
    return 0;
}
#ifndef WITHOUT_UNIQUE_ID
uint32_t rsmi_dev_unique_id_get(uint32_t i, uint64_t *out) { CARD("rsmi_dev_unique_id_get"); *out = num(&cards[i], "unique", 0xabc0 + i); return 0; }
#endif
uint32_t rsmi_dev_memory_total_get(uint32_t i, int type, uint64_t *out) {
    CARD("rsmi_dev_memory_total_get");
    *out = type ? 0 : (uint64_t)num(&cards[i], "mib", 65520) << 20;
    return 0;
}
#ifndef WITHOUT_TOPOLOGY
uint32_t rsmi_topo_get_numa_node_number(uint32_t i, uint32_t *out) {
    CARD("rsmi_topo_get_numa_node_number");
    *out = num(&cards[i], "numa", 0xffffffff);
    return 0;
}
uint32_t rsmi_topo_get_link_type(uint32_t i, uint32_t j, uint64_t *hops, int *kind) {
    CARD("rsmi_topo_get_link_type");
    *hops = 1;
    *kind = num(&cards[i], "hive", -1) >= 0 && num(&cards[i], "hive", -1) == num(&cards[j], "hive", -2) ? 2 : 1;
    return 0;
}
#endif
