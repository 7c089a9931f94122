/*
 * A small NVML for tests: the functions that discovery and health call through pynvml, answering
 * what the file named by FAKE_NVML_SCENARIO says. Structure layouts are those of pynvml's ctypes
 * definitions. The file is read anew at every nvmlInitWithFlags.
 *
 * One record a line, fields separated by '|', each NAME=VALUE after the first:
 *
 *   driver|version=550.54.15|cuda=12040
 *   card|uuid=GPU-0|name=NVIDIA X|memory=4294967296|bus=00000000:3B:00.0|minor=0|cc=8.0|mig=0
 *   mig|card=0|slot=1|uuid=MIG-0|name=NVIDIA X MIG 1g.5gb|gi=1|ci=0|memory=..|compute=1|slices=1
 *   link|one=0|two=1|level=10|nvlinks=4
 *   event|card=0|type=8|data=79|gi=..|ci=..      one answer of nvmlEventSetWait_v2, in order
 *   event|code=15                                 the same call fails
 *   fault|call=nvmlDeviceGetName|card=0|code=999  no card: for every card; code hang or crash
 *
 * A field that a card or an instance lacks is NVML_ERROR_NOT_SUPPORTED.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MOST 64
#define FIELDS 16
#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define TIMEOUT 10

typedef struct { char text[1024]; char *field[FIELDS]; } record;
typedef struct { record r; int is_mig; } device;

typedef struct { char legacy[16]; unsigned ids[5]; char bus[32]; } pci_info;
typedef struct { unsigned engines[6], slices, compute; unsigned long long mib; } attributes;
typedef struct { device *d; unsigned long long type, data; unsigned gi, ci; } event_data;

static record drivers[MOST], links[MOST], events[MOST], faults[MOST];
static device cards[MOST], migs[MOST];
static int n_drivers, n_cards, n_migs, n_links, n_events, n_faults, next_event;
static char event_set;

static const char *get(const record *r, const char *name) {
    size_t length = strlen(name);
    for (int i = 1; i < FIELDS && r->field[i]; i++)
        if (!strncmp(r->field[i], name, length) && r->field[i][length] == '=')
            return r->field[i] + length + 1;
    return NULL;
}

static unsigned long long number(const record *r, const char *name, unsigned long long otherwise) {
    const char *value = get(r, name);
    return value ? strtoull(value, NULL, 0) : otherwise;
}

static void add(record *target, const char *line) {
    memset(target, 0, sizeof *target);
    strncpy(target->text, line, sizeof target->text - 1);
    target->text[strcspn(target->text, "\r\n")] = 0;
    char *save = NULL;
    int i = 0;
    for (char *part = strtok_r(target->text, "|", &save); part && i < FIELDS;
         part = strtok_r(NULL, "|", &save))
        target->field[i++] = part;
}

static void load(void) {
    char line[1024];
    n_drivers = n_cards = n_migs = n_links = n_events = n_faults = 0;
    const char *path = getenv("FAKE_NVML_SCENARIO");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, "driver|", 7)) add(&drivers[n_drivers++], line);
        if (!strncmp(line, "card|", 5)) add(&cards[n_cards++].r, line);
        if (!strncmp(line, "mig|", 4)) { migs[n_migs].is_mig = 1; add(&migs[n_migs++].r, line); }
        if (!strncmp(line, "link|", 5)) add(&links[n_links++], line);
        if (!strncmp(line, "event|", 6)) add(&events[n_events++], line);
        if (!strncmp(line, "fault|", 6)) add(&faults[n_faults++], line);
    }
    fclose(file);
}

static int index_of(const device *d) { return (int)(d - cards); }

static int faulty(const char *call, const device *d) {
    for (int i = 0; i < n_faults; i++) {
        const char *which = get(&faults[i], "call"), *card = get(&faults[i], "card");
        const char *mig = get(&faults[i], "mig"), *code = get(&faults[i], "code");
        if (strcmp(which, "*") && strcmp(which, call)) continue;
        if (card && (!d || d->is_mig || index_of(d) != atoi(card))) continue;
        if (mig && (!d || !d->is_mig || (int)(d - migs) != atoi(mig))) continue;
        if (!strcmp(code, "hang")) for (;;) pause();
        if (!strcmp(code, "crash")) {
            struct rlimit none = {0, 0};
            setrlimit(RLIMIT_CORE, &none);
            raise(SIGSEGV);
        }
        return atoi(code);
    }
    return OK;
}

#define GUARD(d) do { int code_ = faulty(__func__, d); if (code_) return code_; } while (0)
#define NEED(d, name) do { if (!get(&(d)->r, name)) return NOT_SUPPORTED; } while (0)

static int text(const device *d, const char *name, char *out, unsigned size) {
    NEED(d, name);
    snprintf(out, size, "%s", get(&d->r, name));
    return OK;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; load(); GUARD(NULL); return OK; }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    GUARD(NULL);
    if (!n_drivers) return NOT_SUPPORTED;
    snprintf(out, size, "%s", get(&drivers[0], "version"));
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    GUARD(NULL);
    if (!n_drivers) return NOT_SUPPORTED;
    *out = (int)number(&drivers[0], "cuda", 0);
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *out) { GUARD(NULL); *out = (unsigned)n_cards; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **out) {
    if (index >= (unsigned)n_cards) return INVALID_ARGUMENT;
    GUARD(&cards[index]);
    *out = &cards[index];
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device **out) {
    for (int i = 0; i < n_cards; i++)
        if (get(&cards[i].r, "uuid") && !strcmp(get(&cards[i].r, "uuid"), uuid)) {
            GUARD(&cards[i]);
            *out = &cards[i];
            return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(device *d, char *out, unsigned size) { GUARD(d); return text(d, "uuid", out, size); }
int nvmlDeviceGetName(device *d, char *out, unsigned size) { GUARD(d); return text(d, "name", out, size); }

int nvmlDeviceGetMemoryInfo(device *d, unsigned long long *out) {
    GUARD(d);
    NEED(d, "memory");
    out[0] = number(&d->r, "memory", 0);
    out[1] = out[0];
    out[2] = 0;
    return OK;
}

int nvmlDeviceGetPciInfo_v3(device *d, pci_info *out) {
    GUARD(d);
    memset(out, 0, sizeof *out);
    return text(d, "bus", out->bus, sizeof out->bus);
}

int nvmlDeviceGetMinorNumber(device *d, unsigned *out) {
    GUARD(d);
    NEED(d, "minor");
    *out = (unsigned)number(&d->r, "minor", 0);
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(device *d, int *major, int *minor) {
    GUARD(d);
    NEED(d, "cc");
    return sscanf(get(&d->r, "cc"), "%d.%d", major, minor) == 2 ? OK : 999;
}

int nvmlDeviceGetMigMode(device *d, unsigned *now, unsigned *pending) {
    GUARD(d);
    NEED(d, "mig");
    *now = *pending = (unsigned)number(&d->r, "mig", 0);
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *out) { GUARD(d); *out = 7; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned slot, device **out) {
    GUARD(d);
    for (int i = 0; i < n_migs; i++)
        if ((int)number(&migs[i].r, "card", 0) == index_of(d) && number(&migs[i].r, "slot", 0) == slot) {
            *out = &migs[i];
            return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetGpuInstanceId(device *d, unsigned *out) {
    GUARD(d);
    NEED(d, "gi");
    *out = (unsigned)number(&d->r, "gi", 0);
    return OK;
}

int nvmlDeviceGetComputeInstanceId(device *d, unsigned *out) {
    GUARD(d);
    NEED(d, "ci");
    *out = (unsigned)number(&d->r, "ci", 0);
    return OK;
}

int nvmlDeviceGetAttributes_v2(device *d, attributes *out) {
    GUARD(d);
    NEED(d, "slices");
    memset(out, 0, sizeof *out);
    out->slices = (unsigned)number(&d->r, "slices", 0);
    out->compute = (unsigned)number(&d->r, "compute", 0);
    out->mib = number(&d->r, "memory", 0) >> 20;
    return OK;
}

static const record *link_of(const device *one, const device *two) {
    for (int i = 0; i < n_links; i++) {
        int a = (int)number(&links[i], "one", 0), b = (int)number(&links[i], "two", 0);
        if ((a == index_of(one) && b == index_of(two)) || (b == index_of(one) && a == index_of(two)))
            return &links[i];
    }
    return NULL;
}

int nvmlDeviceGetTopologyCommonAncestor(device *one, device *two, unsigned *out) {
    GUARD(one);
    const record *link = link_of(one, two);
    if (!link) return NOT_SUPPORTED;
    *out = (unsigned)number(link, "level", 50);
    return OK;
}

/* NVLinks are numbered by the other card, in order. */
static const device *remote(const device *d, unsigned number_of_link) {
    for (int i = 0; i < n_cards; i++) {
        const record *link = i == index_of(d) ? NULL : link_of(d, &cards[i]);
        unsigned count = link ? (unsigned)number(link, "nvlinks", 0) : 0;
        if (number_of_link < count) return &cards[i];
        number_of_link -= count;
    }
    return NULL;
}

int nvmlDeviceGetNvLinkState(device *d, unsigned link, unsigned *out) {
    GUARD(d);
    if (link >= 18) return INVALID_ARGUMENT;
    *out = remote(d, link) != NULL;
    return OK;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(device *d, unsigned link, pci_info *out) {
    GUARD(d);
    const device *other = remote(d, link);
    if (!other) return NOT_FOUND;
    memset(out, 0, sizeof *out);
    return text(other, "bus", out->bus, sizeof out->bus);
}

int nvmlEventSetCreate(void **out) { GUARD(NULL); *out = &event_set; next_event = 0; return OK; }
int nvmlEventSetFree(void *set) { (void)set; return OK; }
int nvmlDeviceGetSupportedEventTypes(device *d, unsigned long long *out) { GUARD(d); *out = 0xFFFF; return OK; }

int nvmlDeviceRegisterEvents(device *d, unsigned long long types, void *set) {
    GUARD(d);
    return types == 0xB && set == &event_set ? OK : INVALID_ARGUMENT;
}

int nvmlEventSetWait_v2(void *set, event_data *out, unsigned ms) {
    (void)set;
    GUARD(NULL);
    if (next_event >= n_events) {
        usleep(ms < 20 ? ms * 1000 : 20000);
        return TIMEOUT;
    }
    const record *event = &events[next_event++];
    if (get(event, "code")) return (int)number(event, "code", 0);
    out->d = &cards[number(event, "card", 0)];
    out->type = number(event, "type", 8);
    out->data = number(event, "data", 0);
    out->gi = (unsigned)number(event, "gi", 0xFFFFFFFF);
    out->ci = (unsigned)number(event, "ci", 0xFFFFFFFF);
    return OK;
}
