/* libxpuml as its public header describes it: the calls that are made, and their structures. */
#include "../fake.h"

typedef struct { uint32_t domain, bus, device, function, id, subsystem; char bus_id[32]; uint64_t reserved[9]; } pci_t;
typedef struct { uint64_t page, total, free, used, l3[4], reserved[8]; } memory_t;
typedef struct { int32_t arch, board, model; uint32_t units[7]; uint64_t global_mib, l3_mib, reserved[9]; } attributes_t;
typedef struct { uint32_t xpu, memory; uint64_t reserved[15]; } utilization_t;

#define CARD(name) long i = (long)handle - 1; if (i < 0 || i >= card_count) return 6; \
    int status = guard(name, i); if (status) return status

int xpumlInit(void) { if (load("FAKE_XPUML")) return 9; return guard("xpumlInit", -1); }
int xpumlShutdown(void) { return 0; }
#ifndef WITHOUT_VERSION
int xpumlSystemGetDriverVersion(char *out, unsigned size) {
    int status = guard("xpumlSystemGetDriverVersion", -1);
    if (!status) put(out, size, "5.0.21.16");
    return status;
}
#endif
int xpumlDeviceGetCount(unsigned *count) { *count = card_count; return guard("xpumlDeviceGetCount", -1); }
int xpumlDeviceGetHandleByIndex(unsigned index, void **handle) {
    int status = guard("xpumlDeviceGetHandleByIndex", index);
    *handle = (void *)(long)(index + 1);
    return status;
}
int xpumlDeviceGetAttributes(void *handle, attributes_t *out) {
    CARD("xpumlDeviceGetAttributes");
    memset(out, 0, sizeof *out);
    out->arch = num(&cards[i], "arch", 3);
    out->global_mib = num(&cards[i], "mib", 98304);
    return 0;
}
int xpumlDeviceGetMemoryInfo(void *handle, memory_t *out) {
    CARD("xpumlDeviceGetMemoryInfo");
    memset(out, 0, sizeof *out);
    out->total = (uint64_t)num(&cards[i], "mib", 98304) << 20;
    out->used = (uint64_t)num(&cards[i], "used", 0) << 20;
    return 0;
}
int xpumlDeviceGetPciInfo(void *handle, pci_t *out) {
    CARD("xpumlDeviceGetPciInfo");
    memset(out, 0, sizeof *out);
    out->bus = num(&cards[i], "bus", i);
    out->id = 0x36841d22;
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
    return 0;
}
int xpumlDeviceGetState(void *handle, int *out) {
    CARD("xpumlDeviceGetState");
    *out = num(&cards[i], "state", 0);
    return 0;
}
int xpumlDeviceGetUtilizationRates(void *handle, utilization_t *out) {
    CARD("xpumlDeviceGetUtilizationRates");
    memset(out, 0, sizeof *out);
    out->xpu = num(&cards[i], "busy", 0);
    return 0;
}
