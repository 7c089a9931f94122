/*
 * A small DCMI for tests: what discovery, health and the idle vNPU clean-up call, and what
 * ascend-docker-runtime calls to make a vNPU. Structure layouts are written down here once more, by
 * offset, so that they check those of the binding. The scenario (FAKE_DCMI_SCENARIO, see fake.h) is
 * read anew at dcmi_init and at every dcmi_get_card_list. One record a device:
 *
 *   card|id=0|device=0|type=0|kind=Ascend|name=910B4|logic=0|phy=0|die=1A2B3C4D-..(5 words)|health=0
 *       |codes=0x80E18401,..|hbm=32768|ddr=0|used=0|busy=0|bandwidth=0|bus=0000:C1:00.0|pod=7
 *       |processes=0
 *       |cores=20|cpus=7|memory=32768|templates=vir05_1c_8g:5:1:8192,..
 *
 * vNPUs are kept in the file FAKE_DCMI_STATE, a line each: card device id template used. As the
 * driver does, dcmi_create_vdevice refuses what the AI cores, AI CPUs and memory that are left do
 * not allow. Compiled with -DOLD it lacks what older drivers lack, with -DV2 it is a driver of the
 * next generation.
 */
#define BAD -8001
#define INTERNAL -8005
#define NOT_READY -8012
#define NO_DEVICE -8008
#define NOT_SUPPORTED -8255

#ifdef V2
int dcmiv2_init(void) { return 0; }
#else
#include "../fake.h"

typedef struct { int card, device, id, used; char name[32]; } vdev;
static vdev vdevs[256];
static int vdev_count;

static void load_state(void) {
    const char *path = getenv("FAKE_DCMI_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    vdev_count = 0;
    if (!file) return;
    vdev v;
    while (fscanf(file, "%d %d %d %31s %d", &v.card, &v.device, &v.id, v.name, &v.used) == 5)
        vdevs[vdev_count++] = v;
    fclose(file);
}

static void save_state(void) {
    const char *path = getenv("FAKE_DCMI_STATE");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    for (int i = 0; i < vdev_count; i++)
        fprintf(file, "%d %d %d %s %d\n", vdevs[i].card, vdevs[i].device, vdevs[i].id,
                vdevs[i].name, vdevs[i].used);
    fclose(file);
}

static const record *unit(int card, int device) {
    for (int i = 0; i < card_count; i++)
        if (num(&cards[i], "id", -1) == card && num(&cards[i], "device", 0) == device)
            return &cards[i];
    return NULL;
}

static const record *by_logic(unsigned logic) {
    for (int i = 0; i < card_count; i++)
        if (num(&cards[i], "logic", -1) == logic) return &cards[i];
    return NULL;
}

#define ENTER(card) do { int code_ = guard(__func__, card); if (code_) return code_; } while (0)
#define UNIT(card, device) ENTER(card); const record *r = unit(card, device); if (!r) return NO_DEVICE
#define AT(type, base, offset) (*(type *)((char *)(base) + (offset)))

static int ready;

int dcmi_init(void) { load("FAKE_DCMI_SCENARIO"); ENTER(-1); ready = 1; return 0; }

int dcmi_get_dcmi_version(char *buffer, int length) {
    ENTER(-1);
    put(buffer, (size_t)length, "24.1.0");
    return 0;
}

int dcmi_get_card_list(int *count, int *list, int length) {
    load("FAKE_DCMI_SCENARIO");
    int code = guard(__func__, -1);
    if (code) ready = 0; /* what was lost wants dcmi_init */
    if (!ready) return code ? code : NOT_READY;
    *count = 0;
    for (int i = 0; i < card_count; i++) {
        int id = (int)num(&cards[i], "id", 0), known = 0;
        for (int k = 0; k < *count; k++) known |= list[k] == id;
        if (!known && *count < length) list[(*count)++] = id;
    }
    if (card_count && get(&cards[0], "count", NULL)) *count = (int)num(&cards[0], "count", 0);
    return 0;
}

int dcmi_get_device_num_in_card(int card, int *count) {
    ENTER(card);
    *count = 0;
    for (int i = 0; i < card_count; i++) *count += num(&cards[i], "id", -1) == card;
    return 0;
}

int dcmi_get_device_logic_id(int *logic, int card, int device) {
    UNIT(card, device);
    *logic = (int)num(r, "logic", 0);
    return 0;
}

int dcmi_get_device_phyid_from_logicid(unsigned logic, unsigned *physical) {
    const record *r = by_logic(logic);
    ENTER(r ? num(r, "id", -1) : -1);
    if (!r) return NO_DEVICE;
    *physical = (unsigned)num(r, "phy", 0);
    return 0;
}

static int chip_info(const record *r, char *out) {
    put(out, 32, get(r, "kind", "Ascend"));
    put(out + 32, 32, get(r, "name", "910B4"));
    put(out + 64, 32, "V1");
    AT(unsigned, out, 96) = (unsigned)num(r, "cores", 20);
    return 0;
}

int dcmi_get_device_chip_info(int card, int device, void *out) {
    UNIT(card, device);
    return chip_info(r, out);
}

#ifndef OLD
int dcmi_get_device_chip_info_v2(int card, int device, void *out) {
    UNIT(card, device);
    put((char *)out + 100, 32, get(r, "name", "910B4"));
    return chip_info(r, out);
}

int dcmi_get_device_type(int card, int device, int *type) {
    UNIT(card, device);
    *type = (int)num(r, "type", 0);
    return 0;
}

int dcmi_get_device_die_v2(int card, int device, int type, void *out) {
    UNIT(card, device);
    if (type != 1) return BAD;
    const char *text = get(r, "die", "0-0-0-0-0");
    for (int i = 0; i < 5; i++) {
        char *end;
        AT(unsigned, out, 4 * i) = (unsigned)strtoul(text, &end, 16);
        text = *end ? end + 1 : end;
    }
    return 0;
}

int dcmi_get_device_pcie_info_v2(int card, int device, void *out) {
    UNIT(card, device);
    unsigned domain, bus, slot, function;
    if (sscanf(get(r, "bus", ""), "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4)
        return NOT_SUPPORTED;
    AT(unsigned, out, 16) = domain;
    AT(unsigned, out, 20) = bus;
    AT(unsigned, out, 24) = slot;
    AT(unsigned, out, 28) = function;
    return 0;
}
#endif

int dcmi_get_device_health(int card, int device, unsigned *health) {
    UNIT(card, device);
    *health = (unsigned)num(r, "health", 0);
    return 0;
}

int dcmi_get_device_errorcode_v2(int card, int device, int *count, unsigned *list, unsigned length) {
    UNIT(card, device);
    const char *text = get(r, "codes", "");
    for (*count = 0; *text && (unsigned)*count < length; (*count)++) {
        char *end;
        list[*count] = (unsigned)strtoul(text, &end, 0);
        text = *end == ',' ? end + 1 : "";
    }
    return 0;
}

int dcmi_get_device_hbm_info(int card, int device, void *out) {
    UNIT(card, device);
    AT(uint64_t, out, 0) = (uint64_t)num(r, "hbm", 0);
    AT(uint64_t, out, 16) = (uint64_t)num(r, "used", 0);
    return 0;
}

int dcmi_get_device_memory_info_v3(int card, int device, void *out) {
    UNIT(card, device);
    AT(uint64_t, out, 0) = (uint64_t)num(r, "ddr", 0);
    AT(uint64_t, out, 8) = (uint64_t)(num(r, "ddr", 0) - num(r, "used", 0));
    return 0;
}

int dcmi_get_device_utilization_rate(int card, int device, int type, unsigned *rate) {
    UNIT(card, device);
    *rate = (unsigned)num(r, type == 2 ? "busy" : "bandwidth", 0);
    return type == 2 || type == 5 ? 0 : NOT_SUPPORTED;
}

int dcmi_get_device_resource_info(int card, int device, void *out, int *count) {
    UNIT(card, device);
    *count = (int)num(r, "processes", 0);
    for (int i = 0; i < *count && i < 32; i++) AT(int, out, 16 * i) = 4711 + i;
    return 0;
}

static int parse(const record *r, const char *name, int *cores, int *cpus, int *memory) {
    for (const char *text = get(r, "templates", ""); text && *text; text = strchr(text, ',')) {
        if (*text == ',') text++;
        char found[32];
        if (sscanf(text, "%31[^:]:%d:%d:%d", found, cores, cpus, memory) == 4 && !strcmp(found, name))
            return 1;
    }
    return 0;
}

static void free_of(const record *r, int card, int device, int *cores, int *cpus, int *memory) {
    *cores = (int)num(r, "cores", 20);
    *cpus = (int)num(r, "cpus", 7);
    *memory = (int)num(r, "memory", 32768);
    load_state();
    for (int i = 0; i < vdev_count; i++) {
        int c, u, m;
        if (vdevs[i].card == card && vdevs[i].device == device && parse(r, vdevs[i].name, &c, &u, &m)) {
            *cores -= c;
            *cpus -= u;
            *memory -= m;
        }
    }
}

int dcmi_get_device_info(int card, int device, int main, unsigned sub, void *out, unsigned *size) {
    UNIT(card, device);
    load_state();
    if (main == 12 && sub == 1) {
        if (*size < 48) return BAD;
        AT(unsigned, out, 8) = (unsigned)num(r, "pod", 0);
        return 0;
    }
    if (main != 52) return NOT_SUPPORTED;
    if (sub == 0) {
        if (*size < 264) return BAD;
        for (int i = 0; i < vdev_count; i++)
            if (vdevs[i].id == (int)AT(unsigned, out, 0)) {
                put((char *)out + 8, 16, vdevs[i].name);
                AT(unsigned, out, 28) = (unsigned)vdevs[i].used;
                return 0;
            }
        return BAD;
    }
    if (sub == 1) {
        if (*size < 360) return BAD;
        unsigned found = 0;
        for (int i = 0; i < vdev_count; i++)
            if (vdevs[i].card == card && vdevs[i].device == device && found < 32)
                AT(unsigned, out, 4 + 4 * found++) = (unsigned)vdevs[i].id;
        AT(unsigned, out, 0) = found;
        return 0;
    }
    if (sub == 2) {
        int cores, cpus, memory;
        if (*size < 224) return BAD;
        free_of(r, card, device, &cores, &cpus, &memory);
        AT(float, out, 72) = (float)cores;
        AT(uint16_t, out, 72 + 54) = (uint16_t)cpus;
        AT(uint64_t, out, 72 + 24) = (uint64_t)memory;
        return 0;
    }
    return NOT_SUPPORTED;
}

int dcmi_create_vdevice(int card, int device, void *in, void *out) {
    UNIT(card, device);
    char name[32];
    memcpy(name, (char *)in + 8, 32);
    int cores, cpus, memory, c, u, m;
    if (!parse(r, name, &c, &u, &m)) return BAD;
    free_of(r, card, device, &cores, &cpus, &memory);
    if (c > cores || (num(r, "cpus", 7) && u > cpus) || m > memory) return INTERNAL;
    int id = (int)num(r, "phy", 0) * 16 + 100;
    for (int i = 0; i < vdev_count; i++)
        if (vdevs[i].id == id) { id++; i = -1; }
    vdev made = {card, device, id, 0, ""};
    snprintf(made.name, sizeof made.name, "%s", name);
    vdevs[vdev_count++] = made;
    save_state();
    AT(unsigned, out, 0) = (unsigned)id;
    return 0;
}

int dcmi_set_destroy_vdevice(int card, int device, unsigned id) {
    UNIT(card, device);
    (void)r;
    load_state();
    for (int i = 0; i < vdev_count; i++)
        if (vdevs[i].card == card && vdevs[i].device == device && vdevs[i].id == (int)id) {
            vdevs[i] = vdevs[--vdev_count];
            save_state();
            return 0;
        }
    return BAD;
}
#endif
