/* What the fake libraries share: a scenario of lines `card|key=value|...` and
 * `fault|call=NAME|do=hang|crash|error|status=N|card=K`, in the file that an environment variable
 * names, read anew at every initialisation. A fault without a card concerns them all.
 */
#ifndef FAKE_H
#define FAKE_H
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 64
typedef struct { char text[2048]; char *field[64]; } record;
static record cards[MOST], faults[MOST];
static int card_count, fault_count;

static void split(record *r, const char *line) {
    snprintf(r->text, sizeof r->text, "%s", line);
    char *rest = r->text;
    for (int i = 0; i < 64; i++) r->field[i] = strsep(&rest, "|\n");
}

static const char *get(const record *r, const char *key, const char *otherwise) {
    size_t length = strlen(key);
    for (int i = 1; i < 64 && r->field[i]; i++)
        if (!strncmp(r->field[i], key, length) && r->field[i][length] == '=')
            return r->field[i] + length + 1;
    return otherwise;
}

static long long num(const record *r, const char *key, long long otherwise) {
    const char *text = get(r, key, NULL);
    return text ? strtoll(text, NULL, 0) : otherwise;
}

static int load(const char *variable) {
    char line[2048];
    const char *path = getenv(variable);
    FILE *file = path ? fopen(path, "r") : NULL;
    card_count = fault_count = 0;
    if (!file) return -1;
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, "card", 4) && card_count < MOST) split(&cards[card_count++], line);
        if (!strncmp(line, "fault", 5) && fault_count < MOST) split(&faults[fault_count++], line);
    }
    fclose(file);
    return 0;
}

/* The status of a call: 0, or that of a fault; a hang and a crash never return. */
static int guard(const char *call, long card) {
    for (int i = 0; i < fault_count; i++) {
        if (strcmp(get(&faults[i], "call", ""), call)) continue;
        if (get(&faults[i], "card", NULL) && num(&faults[i], "card", -1) != card) continue;
        const char *what = get(&faults[i], "do", "error");
        if (!strcmp(what, "hang")) for (;;) pause();
        if (!strcmp(what, "crash")) raise(SIGKILL);
        return (int)num(&faults[i], "status", 999);
    }
    return 0;
}

static void put(char *out, size_t size, const char *text) {
    /* `\xNN` is a byte, for garbage that no file of text can hold */
    size_t at = 0;
    for (; *text && at + 1 < size; text++) {
        if (text[0] == '\\' && text[1] == 'x') {
            char hex[3] = {text[2], text[3], 0};
            out[at++] = (char)strtol(hex, NULL, 16);
            text += 3;
        } else out[at++] = *text;
    }
    out[at] = 0;
}
#endif
