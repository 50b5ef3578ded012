/* Stand-in for libnvidia-ml.so.1: the five functions that our reader calls, with prototypes of our own.
 *
 * Cards and faults stand in the text file named by NVML_STUB_STATE, read anew at every call:
 *   gpu TOTAL_MIB USED_MIB
 *   fail FUNCTION CODE [CARD]     for instance: fail nvmlDeviceGetMemoryInfo 15 1
 *   hang FUNCTION FILE            waits until FILE is there
 *   epoch NUMBER                  a library opened under another number knows nothing any more
 * Like the real one it counts its users, and nothing works before the first or after the last of them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, GPU_IS_LOST = 15, UNKNOWN = 999 };
enum { MOST_CARDS = 8, ANY_CARD = -1 };

typedef struct {
    unsigned long long total, free, used;
} memory_t;

static int users, opened_in;

static int cards(memory_t *into) {
    const char *path = getenv("NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    int count = 0;
    if (!file) return 0;
    while (count < MOST_CARDS && fgets(line, sizeof line, file)) {
        unsigned long long total, used;
        if (sscanf(line, "gpu %llu %llu", &total, &used) != 2) continue;
        into[count].total = total << 20;
        into[count].used = used << 20;
        into[count].free = (total - used) << 20;
        count++;
    }
    fclose(file);
    return count;
}

static int epoch(void) {
    const char *path = getenv("NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    int number = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) sscanf(line, "epoch %d", &number);
    fclose(file);
    return number;
}

/* What the state file wants this call to return, after what it wants it to wait for. */
static int wanted(const char *function, int card) {
    const char *path = getenv("NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256], name[64], until[160];
    int code, which, result = OK;
    if (!file) return OK;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "hang %63s %159s", name, until) == 2 && !strcmp(name, function))
            while (access(until, F_OK) != 0) usleep(1000);
        which = ANY_CARD;
        if (sscanf(line, "fail %63s %d %d", name, &code, &which) < 2 || strcmp(name, function)) continue;
        if (which == ANY_CARD || which == card) result = code;
    }
    fclose(file);
    return result;
}

static const char *said(int code) {
    static char text[32];
    snprintf(text, sizeof text, "stub error %d", code);
    return text;
}

int nvmlInitWithFlags(unsigned flags);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle);
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory);
const char *nvmlErrorString(int code);

int nvmlInitWithFlags(unsigned flags) {
    int code = wanted("nvmlInitWithFlags", ANY_CARD);
    (void)flags;
    if (code == OK && !users++) opened_in = epoch();
    return code;
}

int nvmlShutdown(void) {
    if (!users) return UNINITIALIZED;
    users--;
    return OK;
}

/* A handle is the card's number plus one, so that NULL is none. */
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    memory_t there[MOST_CARDS];
    int code = wanted("nvmlDeviceGetHandleByIndex", (int)index);
    if (!users) return UNINITIALIZED;
    if (opened_in != epoch()) return UNKNOWN;
    if (code != OK) return code;
    if (index >= (unsigned)cards(there)) return INVALID_ARGUMENT;
    *handle = (void *)((size_t)index + 1);
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    memory_t there[MOST_CARDS];
    int card = (int)(size_t)handle - 1;
    int code = wanted("nvmlDeviceGetMemoryInfo", card);
    if (!users) return UNINITIALIZED;
    if (opened_in != epoch()) return UNKNOWN;
    if (code != OK) return code;
    if (card < 0 || card >= cards(there)) return GPU_IS_LOST;
    *memory = there[card];
    return OK;
}

const char *nvmlErrorString(int code) { return said(code); }
