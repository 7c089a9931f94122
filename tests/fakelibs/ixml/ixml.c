/* libixml: NVIDIA's names and structures, and Iluvatar's own calls. Chips of one board= are one. */
#include "../fake.h"

typedef struct { uint64_t total, free, used; } memory_t;
typedef struct { char legacy[16]; uint32_t domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;

#define CHIP(name) long i = (long)handle - 1; if (i < 0 || i >= card_count) return 6; \
    int status = guard(name, i); if (status) return status

int nvmlInit_v2(void) { if (load("FAKE_IXML")) return 9; return guard("nvmlInit_v2", -1); }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { put(out, size, "4.1.2"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = card_count; return guard("nvmlDeviceGetCount_v2", -1); }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(long)(index + 1);
    return guard("nvmlDeviceGetHandleByIndex_v2", index);
}
int nvmlDeviceGetUUID(void *handle, char *out, unsigned size) {
    CHIP("nvmlDeviceGetUUID");
    char text[80];
    snprintf(text, sizeof text, "GPU-%ld", i);
    put(out, size, get(&cards[i], "uuid", text));
    return 0;
}
int nvmlDeviceGetName(void *handle, char *out, unsigned size) {
    CHIP("nvmlDeviceGetName");
    put(out, size, get(&cards[i], "name", "Iluvatar BI-V150"));
    return 0;
}
int nvmlDeviceGetMinorNumber(void *handle, unsigned *out) {
    CHIP("nvmlDeviceGetMinorNumber");
    *out = num(&cards[i], "minor", i);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *out) {
    CHIP("nvmlDeviceGetMemoryInfo");
    out->total = (uint64_t)num(&cards[i], "mib", 32768) << 20;
    out->used = 0;
    out->free = out->total;
    return 0;
}
int nvmlDeviceGetPciInfo_v3(void *handle, pci_t *out) {
    CHIP("nvmlDeviceGetPciInfo_v3");
    memset(out, 0, sizeof *out);
    out->bus = num(&cards[i], "bus", 16 + i);
    return 0;
}
#ifndef WITHOUT_BOARDS
int nvmlDeviceOnSameBoard(void *handle, void *other, int *out) {
    CHIP("nvmlDeviceOnSameBoard");
    long j = (long)other - 1;
    *out = num(&cards[i], "board", -1 - i) == num(&cards[j], "board", -1 - j);
    return 0;
}
int ixmlDeviceGetBoardPosition(void *handle, unsigned *out) {
    CHIP("ixmlDeviceGetBoardPosition");
    *out = num(&cards[i], "position", 0);
    return 0;
}
#endif
int nvmlDeviceGetTopologyCommonAncestor(void *handle, void *other, int *out) {
    CHIP("nvmlDeviceGetTopologyCommonAncestor");
    (void)other;
    *out = num(&cards[i], "far", 20);
    return 0;
}
int ixmlDeviceGetHealth(void *handle, uint64_t *out) {
    CHIP("ixmlDeviceGetHealth");
    *out = num(&cards[i], "health", 0);
    return 0;
}
