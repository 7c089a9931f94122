/*
 * A small NVML for tests: the functions that discovery, health and partitioning call through
 * pynvml, answering what the file named by FAKE_NVML_SCENARIO says. Structure layouts are those of
 * pynvml's ctypes definitions. The file is read anew at every nvmlInitWithFlags.
 *
 * One record a line, fields separated by '|', each NAME=VALUE after the first:
 *
 *   driver|version=550.54.15|cuda=12040
 *   card|uuid=GPU-0|name=NVIDIA X|memory=4294967296|bus=00000000:3B:00.0|minor=0|cc=8.0|mig=0
 *                                                 used=.. bytes; util=37,12 percent of cores and memory
 *   mig|card=0|slot=1|uuid=MIG-0|name=NVIDIA X MIG 1g.5gb|gi=1|ci=0|memory=..|compute=1|slices=1
 *   link|one=0|two=1|level=10|nvlinks=4
 *   event|card=0|type=8|data=79|gi=..|ci=..      one answer of nvmlEventSetWait_v2, in order
 *   event|code=15                                 the same call fails
 *   fault|call=nvmlDeviceGetName|card=0|code=999  no card: for every card; code hang, crash, kill or
 *                                                 skip (success, but nothing happens);
 *                                                 nth=2: only the second such call of the process;
 *                                                 when=after: once a change has been made
 *   profile|index=0|id=19|name=MIG 1g.5gb|slices=1|memory=..|size=1|starts=0,1,2|base=7
 *                                                 a GPU instance profile; card=0: of that card only
 *   process|card=0|start=2|pid=4711               in the instance at that slice; no start: on the
 *                                                 card; hidden=1: never listed, but in the way
 *
 * A card with enable=16 answers that when MIG mode is switched on, and leaves it pending.
 * A field that a card or an instance lacks is NVML_ERROR_NOT_SUPPORTED.
 *
 * What nvmlDeviceSetMigMode and the calls that make and destroy instances change is kept in the
 * file named by FAKE_NVML_STATE, as a driver keeps it when its callers die. Numbers of instances
 * fall as slices rise, so that the order of MIG devices is not that of slices, and every compute
 * instance gives its MIG device a new uuid.
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
#define INSUFFICIENT_SIZE 7
#define TIMEOUT 10
#define IN_USE 19
#define INSUFFICIENT_RESOURCES 23
#define SKIP (-1)

typedef struct { char text[1024]; char *field[FIELDS]; } record;
typedef struct { record r; int is_mig; } device;

typedef struct { char legacy[16]; unsigned ids[5]; char bus[32]; } pci_info;
typedef struct { unsigned engines[6], slices, compute; unsigned long long mib; } attributes;
typedef struct { device *d; unsigned long long type, data; unsigned gi, ci; } event_data;
typedef struct { unsigned start, size; } placement;
typedef struct { unsigned id, p2p, slices, most, sms, engines[5]; unsigned long long mib; } gi_profile;
typedef struct { unsigned version, id, p2p, slices, most, sms, engines[5]; unsigned long long mib; char name[96]; } gi_profile2;
typedef struct { device *d; unsigned id, profile; placement place; } gi_info;
typedef struct { unsigned id, slices, most, sms, engines[5]; } ci_profile;
typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } process_info;

/* An instance is in use while `card` is not negative. */
typedef struct { int card, profile; unsigned id, start; } gpu_instance;
typedef struct { gpu_instance *in; unsigned id, slices, serial; } compute_instance;

static record drivers[MOST], links[MOST], events[MOST], faults[MOST], profiles[MOST], processes[MOST];
static device cards[MOST], migs[MOST];
static gpu_instance gis[MOST];
static compute_instance cis[MOST];
static unsigned mode_now[MOST], mode_pending[MOST], next_serial;
static int n_drivers, n_cards, n_migs, n_links, n_events, n_faults, n_profiles, n_processes, next_event;
static int n_listed_migs, fault_calls[MOST];
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

static void load_state(void);

static void load(void) {
    char line[1024];
    n_drivers = n_cards = n_migs = n_links = n_events = n_faults = n_profiles = n_processes = 0;
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
        if (!strncmp(line, "profile|", 8)) add(&profiles[n_profiles++], line);
        if (!strncmp(line, "process|", 8)) add(&processes[n_processes++], line);
    }
    fclose(file);
    n_listed_migs = n_migs;
    load_state();
}

static int index_of(const device *d) { return (int)(d - cards); }

static int faulty(const char *call, const device *d, const char *when) {
    for (int i = 0; i < n_faults; i++) {
        const char *late = get(&faults[i], "when"), *nth = get(&faults[i], "nth");
        if (strcmp(late ? late : "before", when)) continue;
        const char *which = get(&faults[i], "call"), *card = get(&faults[i], "card");
        const char *mig = get(&faults[i], "mig"), *code = get(&faults[i], "code");
        if (strcmp(which, "*") && strcmp(which, call)) continue;
        if (card && (!d || d->is_mig || index_of(d) != atoi(card))) continue;
        if (mig && (!d || !d->is_mig || (int)(d - migs) != atoi(mig))) continue;
        if (nth && ++fault_calls[i] != atoi(nth)) continue;
        if (!strcmp(code, "kill")) raise(SIGKILL);
        if (!strcmp(code, "skip")) return SKIP;
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

#define GUARD(d) do { int code_ = faulty(__func__, d, "before"); if (code_) return code_ == SKIP ? OK : code_; } while (0)
static void save_state(void);
#define CHANGED(d) do { save_state(); return faulty(__func__, d, "after"); } while (0)
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
    case 4: return "Insufficient Permissions";
    case 15: return "GPU is lost";
    case 16: return "GPU requires reset";
    case 18: return "Driver/library version mismatch";
    case 19: return "In use by another client";
    case 23: return "Insufficient Resources";
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
    for (int i = 0; i < n_migs; i++)
        if (get(&migs[i].r, "uuid") && !strcmp(get(&migs[i].r, "uuid"), uuid)) {
            GUARD(&migs[i]);
            *out = &migs[i];
            return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(device *d, unsigned *out) { GUARD(d); *out = (unsigned)index_of(d); return OK; }
int nvmlDeviceGetUUID(device *d, char *out, unsigned size) { GUARD(d); return text(d, "uuid", out, size); }
int nvmlDeviceGetName(device *d, char *out, unsigned size) { GUARD(d); return text(d, "name", out, size); }

int nvmlDeviceGetMemoryInfo(device *d, unsigned long long *out) {
    GUARD(d);
    NEED(d, "memory");
    out[0] = number(&d->r, "memory", 0);
    out[2] = number(&d->r, "used", 0);
    out[1] = out[0] - out[2];
    return OK;
}

int nvmlDeviceGetUtilizationRates(device *d, unsigned *out) {
    GUARD(d);
    NEED(d, "util");
    return sscanf(get(&d->r, "util"), "%u,%u", &out[0], &out[1]) == 2 ? OK : 999;
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
    *now = mode_now[index_of(d)];
    *pending = mode_pending[index_of(d)];
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

/* --- MIG on demand ------------------------------------------------------------------------- */

static unsigned numbers(const record *r, const char *name, unsigned *out) {
    unsigned count = 0;
    for (const char *at = get(r, name); at && count < MOST; at = strchr(at, ',')) {
        at += *at == ',';
        out[count++] = (unsigned)strtoul(at, NULL, 0);
        if (!strchr(at, ',')) break;
    }
    return count;
}

static int is_of(const record *profile, int card) {
    return !get(profile, "card") || (int)number(profile, "card", 0) == card;
}

static int profile_by(const device *d, const char *field, unsigned wanted) {
    for (int i = 0; i < n_profiles; i++)
        if (is_of(&profiles[i], index_of(d)) && number(&profiles[i], field, 999) == wanted) return i;
    return -1;
}

static unsigned size_of(const gpu_instance *gi) { return (unsigned)number(&profiles[gi->profile], "size", 1); }
static unsigned slices_of(const gpu_instance *gi) { return (unsigned)number(&profiles[gi->profile], "slices", 1); }

/* The MIG devices that follow from the instances, behind those that the scenario lists. */
static void list_migs(void) {
    n_migs = n_listed_migs;
    unsigned slot[MOST] = {0};
    for (unsigned id = 0; id < MOST; id++)
        for (int i = 0; i < MOST; i++) {
            const compute_instance *ci = &cis[i];
            if (!ci->in || ci->in->card < 0 || ci->in->id != id || n_migs >= MOST) continue;
            const record *card = &cards[ci->in->card].r, *profile = &profiles[ci->in->profile];
            char line[1024], part[8] = "";
            if (ci->slices != slices_of(ci->in)) snprintf(part, sizeof part, "%uc.", ci->slices);
            const char *name = get(profile, "name");
            name = strrchr(name, ' ') ? strrchr(name, ' ') + 1 : name;
            snprintf(line, sizeof line,
                     "mig|card=%d|slot=%u|uuid=MIG-%.80s-%u|name=%.80s MIG %s%.80s|gi=%u|ci=%u|memory=%llu"
                     "|compute=%u|slices=%u|start=%u",
                     ci->in->card, slot[ci->in->card]++, get(card, "uuid"), ci->serial, get(card, "name"),
                     part, name, ci->in->id, ci->id, number(profile, "memory", 0) << 20, ci->slices,
                     slices_of(ci->in), ci->in->start);
            migs[n_migs].is_mig = 1;
            add(&migs[n_migs++].r, line);
        }
}

static void save_state(void) {
    list_migs();
    const char *path = getenv("FAKE_NVML_STATE");
    if (!path) return;
    char fresh[1024];
    snprintf(fresh, sizeof fresh, "%s.new", path);
    FILE *file = fopen(fresh, "w");
    if (!file) return;
    fprintf(file, "next|serial=%u\n", next_serial);
    for (int i = 0; i < n_cards; i++)
        fprintf(file, "mode|card=%d|now=%u|pending=%u\n", i, mode_now[i], mode_pending[i]);
    for (int i = 0; i < MOST; i++)
        if (gis[i].card >= 0)
            fprintf(file, "gi|at=%d|card=%d|profile=%d|id=%u|start=%u\n", i, gis[i].card, gis[i].profile,
                    gis[i].id, gis[i].start);
    for (int i = 0; i < MOST; i++)
        if (cis[i].in)
            fprintf(file, "ci|in=%d|id=%u|slices=%u|serial=%u\n", (int)(cis[i].in - gis), cis[i].id,
                    cis[i].slices, cis[i].serial);
    fclose(file);
    rename(fresh, path);
}

static void load_state(void) {
    next_serial = 1;
    memset(cis, 0, sizeof cis);
    for (int i = 0; i < MOST; i++) gis[i].card = -1;
    for (int i = 0; i < n_cards; i++) mode_now[i] = mode_pending[i] = (unsigned)number(&cards[i].r, "mig", 0);
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[1024];
    int n_cis = 0;
    while (file && fgets(line, sizeof line, file)) {
        record r;
        add(&r, line);
        if (!strncmp(line, "next|", 5)) next_serial = (unsigned)number(&r, "serial", 1);
        if (!strncmp(line, "mode|", 5)) {
            mode_now[number(&r, "card", 0)] = (unsigned)number(&r, "now", 0);
            mode_pending[number(&r, "card", 0)] = (unsigned)number(&r, "pending", 0);
        }
        if (!strncmp(line, "gi|", 3))
            gis[number(&r, "at", 0)] = (gpu_instance){(int)number(&r, "card", 0), (int)number(&r, "profile", 0),
                                                      (unsigned)number(&r, "id", 0), (unsigned)number(&r, "start", 0)};
        if (!strncmp(line, "ci|", 3))
            cis[n_cis++] = (compute_instance){&gis[number(&r, "in", 0)], (unsigned)number(&r, "id", 0),
                                              (unsigned)number(&r, "slices", 1), (unsigned)number(&r, "serial", 0)};
    }
    if (file) fclose(file);
    list_migs();
}

static int is_used(int card, const gpu_instance *gi) {
    for (int i = 0; i < n_processes; i++) {
        const char *start = get(&processes[i], "start");
        if ((int)number(&processes[i], "card", 0) != card || !start != !gi) continue;
        if (!gi || (unsigned)atoi(start) == gi->start) return 1;
    }
    return 0;
}

int nvmlDeviceSetMigMode(device *d, unsigned mode, int *activation) {
    GUARD(d);
    NEED(d, "mig");
    *activation = is_used(index_of(d), NULL) ? IN_USE : (int)number(&d->r, "enable", 0);
    mode_pending[index_of(d)] = mode;
    if (!*activation) mode_now[index_of(d)] = mode;
    CHANGED(d);
}

static int profile_info(device *d, unsigned index, gi_profile *out, char *name) {
    int at = profile_by(d, "index", index);
    if (at < 0) return NOT_SUPPORTED;
    unsigned starts[MOST];
    const record *r = &profiles[at];
    memset(out, 0, sizeof *out);
    out->id = (unsigned)number(r, "id", 0);
    out->slices = (unsigned)number(r, "slices", 1);
    out->most = numbers(r, "starts", starts);
    out->mib = number(r, "memory", 0);
    if (name) snprintf(name, 96, "%s", get(r, "name"));
    return OK;
}

int nvmlDeviceGetGpuInstanceProfileInfo(device *d, unsigned index, gi_profile *out) {
    GUARD(d);
    return profile_info(d, index, out, NULL);
}

int nvmlDeviceGetGpuInstanceProfileInfoV(device *d, unsigned index, gi_profile2 *out) {
    GUARD(d);
    gi_profile found;
    if (out->version != 0x02000098) return 25;
    int code = profile_info(d, index, &found, out->name);
    if (code) return code;
    out->id = found.id;
    out->slices = found.slices;
    out->most = found.most;
    out->mib = found.mib;
    return OK;
}

int nvmlDeviceGetGpuInstancePossiblePlacements_v2(device *d, unsigned id, placement *out, unsigned *count) {
    GUARD(d);
    int at = profile_by(d, "id", id);
    if (at < 0) return INVALID_ARGUMENT;
    unsigned starts[MOST];
    *count = numbers(&profiles[at], "starts", starts);
    for (unsigned i = 0; out && i < *count; i++)
        out[i] = (placement){starts[i], (unsigned)number(&profiles[at], "size", 1)};
    return OK;
}

int nvmlDeviceCreateGpuInstanceWithPlacement(device *d, unsigned id, const placement *where, gpu_instance **out) {
    GUARD(d);
    if (!mode_now[index_of(d)]) return NOT_SUPPORTED;
    int at = profile_by(d, "id", id), place = -1, free = -1;
    if (at < 0) return INVALID_ARGUMENT;
    unsigned starts[MOST], count = numbers(&profiles[at], "starts", starts);
    for (unsigned i = 0; i < count; i++)
        if (starts[i] == where->start && where->size == number(&profiles[at], "size", 1)) place = (int)i;
    if (place < 0) return INVALID_ARGUMENT;
    for (int i = MOST - 1; i >= 0; i--) {
        if (gis[i].card < 0) free = i;
        else if (gis[i].card == index_of(d) && gis[i].start < where->start + where->size &&
                 where->start < gis[i].start + size_of(&gis[i]))
            return INSUFFICIENT_RESOURCES;
    }
    unsigned number_of = (unsigned)number(&profiles[at], "base", 0) + count - 1 - (unsigned)place;
    gis[free] = (gpu_instance){index_of(d), at, number_of, where->start};
    *out = &gis[free];
    CHANGED(d);
}

int nvmlGpuInstanceDestroy(gpu_instance *gi) {
    device *d = &cards[gi->card];
    GUARD(d);
    for (int i = 0; i < MOST; i++)
        if (cis[i].in == gi) return IN_USE;
    gi->card = -1;
    CHANGED(d);
}

int nvmlDeviceGetGpuInstances(device *d, unsigned id, gpu_instance **out, unsigned *count) {
    GUARD(d);
    if (!mode_now[index_of(d)]) return NOT_SUPPORTED;
    *count = 0;
    for (int i = 0; i < MOST; i++)
        if (gis[i].card == index_of(d) && number(&profiles[gis[i].profile], "id", 0) == id)
            out[(*count)++] = &gis[i];
    return OK;
}

int nvmlDeviceGetGpuInstanceById(device *d, unsigned id, gpu_instance **out) {
    GUARD(d);
    for (int i = 0; i < MOST; i++)
        if (gis[i].card == index_of(d) && gis[i].id == id) {
            *out = &gis[i];
            return OK;
        }
    return NOT_FOUND;
}

int nvmlGpuInstanceGetInfo(gpu_instance *gi, gi_info *out) {
    GUARD(&cards[gi->card]);
    *out = (gi_info){&cards[gi->card], gi->id, (unsigned)number(&profiles[gi->profile], "id", 0),
                     {gi->start, size_of(gi)}};
    return OK;
}

static const unsigned CI_SLICES[] = {1, 2, 3, 4, 7, 8, 6, 1};

int nvmlGpuInstanceGetComputeInstanceProfileInfo(gpu_instance *gi, unsigned index, unsigned engine, ci_profile *out) {
    GUARD(&cards[gi->card]);
    if (index >= sizeof CI_SLICES / sizeof *CI_SLICES || engine) return INVALID_ARGUMENT;
    if (CI_SLICES[index] > slices_of(gi)) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    out->id = index;
    out->slices = CI_SLICES[index];
    return OK;
}

int nvmlGpuInstanceCreateComputeInstance(gpu_instance *gi, unsigned id, compute_instance **out) {
    device *d = &cards[gi->card];
    GUARD(d);
    unsigned used = 0, number_of = 0;
    int free = -1;
    for (int i = MOST - 1; i >= 0; i--) {
        if (!cis[i].in) free = i;
        if (cis[i].in == gi) { used += cis[i].slices; number_of++; }
    }
    if (used + CI_SLICES[id] > slices_of(gi)) return INSUFFICIENT_RESOURCES;
    cis[free] = (compute_instance){gi, number_of, CI_SLICES[id], next_serial++};
    *out = &cis[free];
    CHANGED(d);
}

int nvmlComputeInstanceDestroy(compute_instance *ci) {
    device *d = &cards[ci->in->card];
    GUARD(d);
    if (is_used(ci->in->card, ci->in)) return IN_USE;
    ci->in = NULL;
    CHANGED(d);
}

int nvmlGpuInstanceGetComputeInstances(gpu_instance *gi, unsigned id, compute_instance **out, unsigned *count) {
    GUARD(&cards[gi->card]);
    *count = 0;
    for (int i = 0; i < MOST; i++)
        if (cis[i].in == gi && id < 7 && cis[i].slices == CI_SLICES[id]) out[(*count)++] = &cis[i];
    return OK;
}

static int running(device *d, unsigned *count, process_info *out) {
    unsigned found = 0, room = *count;
    int card = d->is_mig ? (int)number(&d->r, "card", 0) : index_of(d);
    for (int i = 0; i < n_processes; i++) {
        const record *r = &processes[i];
        if ((int)number(r, "card", 0) != card || get(r, "hidden")) continue;
        if (d->is_mig && (!get(r, "start") || number(r, "start", 0) != number(&d->r, "start", 999))) continue;
        if (found < room && out) out[found] = (process_info){(unsigned)number(r, "pid", 0), 1, 0, 0};
        found++;
    }
    *count = found;
    return found > room || (found && !out) ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device *d, unsigned *count, process_info *out) {
    GUARD(d);
    return running(d, count, out);
}

int nvmlDeviceGetComputeRunningProcesses_v2(device *d, unsigned *count, process_info *out) {
    GUARD(d);
    return running(d, count, out);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(device *d, unsigned *count, process_info *out) {
    (void)out;
    GUARD(d);
    *count = 0;
    return OK;
}

/* --- links --------------------------------------------------------------------------------- */

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
