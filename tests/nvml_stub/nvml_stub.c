/* Stand-in for libnvidia-ml.so.1: the functions that our readers call, with prototypes of our own.
 *
 * Cards and faults stand in the text file named by NVML_STUB_STATE, read anew at every call:
 *   gpu TOTAL_MIB USED_MIB
 *   set CARD WHAT NUMBER          utilisation, temperature, power, energy, sm, mem, reasons, fan, sent, received,
 *                                 in the library's own units; what is not set is not supported
 *   process CARD PID MIB [NAME]   computes; MIB -1 is not available, and without a name it has none
 *   draws CARD PID MIB            draws
 *   fail FUNCTION CODE [CARD]     for instance: fail nvmlDeviceGetMemoryInfo 15 1
 *   lost CARD                     every function answers that this card is lost
 *   hang FUNCTION FILE            waits until FILE is there
 *   epoch NUMBER                  a library opened under another number knows nothing any more
 * Like the real one it counts its users, and nothing works before the first or after the last of them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       GPU_IS_LOST = 15, UNKNOWN = 999 };
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
        if (sscanf(line, "lost %d", &which) == 1 && which == card) result = GPU_IS_LOST;
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

/* What every function of a card begins with. */
static int entered(const char *function, int card) {
    memory_t there[MOST_CARDS];
    int code = wanted(function, card);
    if (!users) return UNINITIALIZED;
    if (opened_in != epoch()) return UNKNOWN;
    if (code != OK) return code;
    return card < 0 || card >= cards(there) ? GPU_IS_LOST : OK;
}

static int number_of(void *handle) { return (int)(size_t)handle - 1; }

/* A figure of a card, if the state file sets it. */
static int set(const char *function, void *handle, const char *what, unsigned long long *figure) {
    const char *path = getenv("NVML_STUB_STATE");
    char line[256], name[64];
    unsigned long long value;
    int card, code = entered(function, number_of(handle));
    FILE *file;
    if (code != OK) return code;
    code = NOT_SUPPORTED;
    file = path ? fopen(path, "r") : NULL;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "set %d %63s %llu", &card, name, &value) != 3) continue;
        if (card != number_of(handle) || strcmp(name, what)) continue;
        *figure = value;
        code = OK;
    }
    if (file) fclose(file);
    return code;
}

static int set_small(const char *function, void *handle, const char *what, unsigned *figure) {
    unsigned long long value = 0;
    int code = set(function, handle, what, &value);
    if (code == OK) *figure = (unsigned)value;
    return code;
}

typedef struct {
    unsigned gpu, memory;
} utilization_t;

typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} process_t;

static int running(const char *function, void *handle, const char *form, unsigned *count, process_t *into) {
    const char *path = getenv("NVML_STUB_STATE");
    char line[256];
    unsigned pid, found = 0, room = *count;
    long long mib;
    int card, code = entered(function, number_of(handle));
    FILE *file;
    if (code != OK) return code;
    file = path ? fopen(path, "r") : NULL;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, form, &card, &pid, &mib) != 3 || card != number_of(handle)) continue;
        if (into && found < room)
            into[found] = (process_t){pid, mib < 0 ? ~0ull : (unsigned long long)mib << 20, ~0u, ~0u};
        found++;
    }
    if (file) fclose(file);
    *count = found;
    return found > room || (!into && found) ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetUUID(void *handle, char *text, unsigned length);
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates);
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius);
int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts);
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules);
int nvmlDeviceGetClockInfo(void *handle, int clock, unsigned *mhz);
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *mask);
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *mask);
int nvmlDeviceGetFanSpeed(void *handle, unsigned *percent);
int nvmlDeviceGetPcieThroughput(void *handle, int counter, unsigned *kilobytes_per_s);
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *into);
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, process_t *into);
int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length);

int nvmlDeviceGetCount_v2(unsigned *count) {
    memory_t there[MOST_CARDS];
    int code = wanted("nvmlDeviceGetCount", ANY_CARD);
    if (!users) return UNINITIALIZED;
    if (opened_in != epoch()) return UNKNOWN;
    if (code == OK) *count = (unsigned)cards(there);
    return code;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) {
    int code = entered("nvmlDeviceGetUUID", number_of(handle));
    if (code == OK) snprintf(text, length, "GPU-stub-%d", number_of(handle));
    return code;
}

int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) {
    rates->memory = 0;
    return set_small("nvmlDeviceGetUtilizationRates", handle, "utilisation", &rates->gpu);
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) {
    if (sensor != 0) return INVALID_ARGUMENT;
    return set_small("nvmlDeviceGetTemperature", handle, "temperature", celsius);
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
    return set_small("nvmlDeviceGetPowerUsage", handle, "power", milliwatts);
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules) {
    return set("nvmlDeviceGetTotalEnergyConsumption", handle, "energy", millijoules);
}

int nvmlDeviceGetClockInfo(void *handle, int clock, unsigned *mhz) {
    if (clock != 1 && clock != 2) return INVALID_ARGUMENT;
    return set_small("nvmlDeviceGetClockInfo", handle, clock == 1 ? "sm" : "mem", mhz);
}

int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *mask) {
    return set("nvmlDeviceGetCurrentClocksEventReasons", handle, "reasons", mask);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *mask) {
    return set("nvmlDeviceGetCurrentClocksThrottleReasons", handle, "reasons", mask);
}

int nvmlDeviceGetFanSpeed(void *handle, unsigned *percent) {
    return set_small("nvmlDeviceGetFanSpeed", handle, "fan", percent);
}

int nvmlDeviceGetPcieThroughput(void *handle, int counter, unsigned *kilobytes_per_s) {
    if (counter != 0 && counter != 1) return INVALID_ARGUMENT;
    return set_small("nvmlDeviceGetPcieThroughput", handle, counter ? "received" : "sent", kilobytes_per_s);
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *into) {
    return running("nvmlDeviceGetComputeRunningProcesses", handle, "process %d %u %lld", count, into);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, process_t *into) {
    return running("nvmlDeviceGetGraphicsRunningProcesses", handle, "draws %d %u %lld", count, into);
}

int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length) {
    const char *path = getenv("NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256], said_name[128];
    unsigned whose;
    int code = NOT_FOUND;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "process %*d %u %*d %127[^\n]", &whose, said_name) != 2 || whose != pid) continue;
        snprintf(name, length, "%s", said_name);
        code = OK;
    }
    if (file) fclose(file);
    return code;
}
