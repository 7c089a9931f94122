/* libmxsml: the calls that are made, as the public exporter binds them. */
#include "../fake.h"

typedef struct { unsigned id, type; char bdf[32]; unsigned gpu, node; char uuid[96]; unsigned brand, mode; char name[32]; } info_t;
typedef struct { long visible_total, visible_used, vram_total, vram_used, xtt_total, xtt_used; } memory_t;
typedef struct { int code; char reason[64]; } unavailable_t;

#define CARD(name) if (i >= (unsigned)card_count) return 6; \
    int status = guard(name, i); if (status) return status

unsigned mxSmlInit(void) { if (load("FAKE_MXSML")) return 26; return guard("mxSmlInit", -1); }
unsigned mxSmlGetDeviceCount(void) { return card_count; }
unsigned mxSmlGetDeviceInfo(unsigned i, info_t *out) {
    CARD("mxSmlGetDeviceInfo");
    char text[96];
    memset(out, 0, sizeof *out);
    snprintf(out->bdf, sizeof out->bdf, "0000:%02X:00.0", 0x0e + i);
    snprintf(text, sizeof text, "GPU-%u", i);
    put(out->uuid, sizeof out->uuid, get(&cards[i], "uuid", text));
    put(out->name, sizeof out->name, get(&cards[i], "name", "MXC500"));
    return 0;
}
unsigned mxSmlGetMemoryInfo(unsigned i, memory_t *out) {
    CARD("mxSmlGetMemoryInfo");
    memset(out, 0, sizeof *out);
    out->vram_total = num(&cards[i], "mib", 65536) * 1024;
    return 0;
}
unsigned mxSmlGetDeviceState(unsigned i, int *out) { CARD("mxSmlGetDeviceState"); *out = num(&cards[i], "state", 1); return 0; }
unsigned mxSmlGetDieUnavailableReason(unsigned i, unsigned die, unavailable_t *out) {
    CARD("mxSmlGetDieUnavailableReason");
    out->code = die + 7;
    put(out->reason, sizeof out->reason, get(&cards[i], "reason", ""));
    return 0;
}
