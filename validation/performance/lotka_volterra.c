/* The limit for workload W1: Dormand-Prince 5(4) on Lotka-Volterra and its discrete adjoint, all sizes known to the
   compiler, stage states stored. The same steps, interpolant and controller as refnode; no checks of any kind.

   cc -O3 -march=native -shared -fPIC -o lotka_volterra.so lotka_volterra.c -lm                                   */
#include <math.h>
#include <string.h>

enum { N = 2, P = 4, S = 6, MOST = 4096 };

static const double A[S][S] = {
    {0}, {1. / 5}, {3. / 40, 9. / 40}, {44. / 45, -56. / 15, 32. / 9},
    {19372. / 6561, -25360. / 2187, 64448. / 6561, -212. / 729},
    {9017. / 3168, -355. / 33, 46732. / 5247, 49. / 176, -5103. / 18656}};
static const double B[S] = {35. / 384, 0, 500. / 1113, 125. / 192, -2187. / 6784, 11. / 84};
static const double E[S + 1] = {-71. / 57600, 0, 71. / 16695, -71. / 1920, 17253. / 339200, -22. / 525, 1. / 40};
static const double W[S + 1][4] = {       /* weights of the interpolant, powers of sigma from the first on */
    {1, -8048581381. / 2820520608, 8663915743. / 2820520608, -12715105075. / 11282082432},
    {0}, {0, 131558114200. / 32700410799, -68118460800. / 10900136933, 87487479700. / 32700410799},
    {0, -1754552775. / 470086768, 14199869525. / 1410260304, -10690763975. / 1880347072},
    {0, 127303824393. / 49829197408, -318862633887. / 49829197408, 701980252875. / 199316789632},
    {0, -282668133. / 205662961, 2019193451. / 616988883, -1453857185. / 822651844},
    {0, 40617522. / 29380423, -110615467. / 29380423, 69997945. / 29380423}};

static double ts_[MOST], k_[MOST][S + 1][N], z_[MOST][S + 1][N];   /* of every step: its time, slopes, stage states */

static inline void f(const double *y, const double *p, double *dy) {
    dy[0] = p[0] * y[0] - p[1] * y[0] * y[1];
    dy[1] = p[3] * y[0] * y[1] - p[2] * y[1];
}

static inline void f_vjp(const double *y, const double *p, const double *b, double *y_bar, double *p_bar) {
    y_bar[0] += (p[0] - p[1] * y[1]) * b[0] + p[3] * y[1] * b[1];
    y_bar[1] += -p[1] * y[0] * b[0] + (p[3] * y[0] - p[2]) * b[1];
    p_bar[0] += y[0] * b[0];
    p_bar[1] -= y[0] * y[1] * b[0];
    p_bar[2] -= y[1] * b[1];
    p_bar[3] += y[0] * y[1] * b[1];
}

static inline void weights(double sigma, double *w) {
    for (int i = 0; i <= S; i++) w[i] = (((W[i][3] * sigma + W[i][2]) * sigma + W[i][1]) * sigma + W[i][0]) * sigma;
}

/* Observations ys[count][N] at times ts; returns the number of steps, whose stages stay in this file. */
int forward(const double *y0, const double *p, double t, double t1, double h, double rtol, double atol, int count,
            const double *ts, double *ys, int *ys_step) {
    int steps = 0, seen = 0;
    memcpy(z_[0][0], y0, sizeof z_[0][0]);
    f(y0, p, k_[0][0]);
    for (; seen < count && ts[seen] == t; seen++) { memcpy(ys + N * seen, y0, N * sizeof(double)); ys_step[seen] = -1; }
    while (t < t1) {
        double (*k)[N] = k_[steps], (*z)[N] = z_[steps], norm, t_next;
        for (int rejected = 0;; rejected = 1) {
            int cut = t + h > t1;
            t_next = cut ? t1 : t + h;
            double step = t_next - t, size = h;
            for (int i = 1; i <= S; i++) {
                for (int m = 0; m < N; m++) {
                    double sum = 0;
                    for (int j = 0; j < i; j++) sum += (i < S ? A[i][j] : B[j]) * k[j][m];
                    z[i][m] = z[0][m] + step * sum;
                }
                f(z[i], p, k[i]);
            }
            double total = 0;
            for (int m = 0; m < N; m++) {
                double e = 0;
                for (int i = 0; i <= S; i++) e += E[i] * k[i][m];
                e *= step / (atol + rtol * fmax(fabs(z[0][m]), fabs(z[S][m])));
                total += e * e;
            }
            norm = sqrt(total / N);
            double factor = fmin(10, fmax(0.2, 0.9 * pow(norm, -0.2)));
            if (norm < 1) { h = step * (rejected ? fmin(1, factor) : factor); if (cut) h = fmax(h, size); break; }
            h = step * factor;
        }
        for (; seen < count && ts[seen] <= t_next; seen++) {
            double w[S + 1], step = t_next - t;
            ys_step[seen] = steps;
            if (ts[seen] == t_next) { memcpy(ys + N * seen, z[S], N * sizeof(double)); continue; }
            weights((ts[seen] - t) / step, w);
            for (int m = 0; m < N; m++) {
                double sum = 0;
                for (int i = 0; i <= S; i++) sum += w[i] * k[i][m];
                ys[N * seen + m] = z[0][m] + step * sum;
            }
        }
        ts_[steps++] = t;
        memcpy(z_[steps][0], z[S], sizeof z[S]);
        memcpy(k_[steps][0], k[S], sizeof k[S]);
        t = t_next;
    }
    ts_[steps] = t;
    return steps;
}

/* The transpose of `forward`, its steps held: y_bar (N) and p_bar (P) of the sum of ys_bar . ys. */
void reverse(int steps, const double *p, int count, const double *ts, const int *ys_step, const double *ys_bar,
             double *y_bar, double *p_bar) {
    int seen = count;
    double bar[N] = {0};
    for (int m = 0; m < P; m++) p_bar[m] = 0;
    for (int i = steps - 1; i >= 0; i--) {
        double k_bar[S + 1][N] = {{0}}, y1_bar[N], h = ts_[i + 1] - ts_[i];
        memcpy(y1_bar, bar, sizeof bar);
        memset(bar, 0, sizeof bar);
        for (; seen > 0 && ys_step[seen - 1] == i; seen--) {
            const double *o = ys_bar + N * (seen - 1);
            double w[S + 1];
            if (ts[seen - 1] == ts_[i + 1]) { for (int m = 0; m < N; m++) y1_bar[m] += o[m]; continue; }
            weights((ts[seen - 1] - ts_[i]) / h, w);
            for (int m = 0; m < N; m++) {
                bar[m] += o[m];
                for (int j = 0; j <= S; j++) k_bar[j][m] += w[j] * h * o[m];
            }
        }
        f_vjp(z_[i][S], p, k_bar[S], y1_bar, p_bar);
        for (int s = S; s > 0; s--) {
            double z_bar[N] = {0};
            if (s == S) memcpy(z_bar, y1_bar, sizeof z_bar);
            else f_vjp(z_[i][s], p, k_bar[s], z_bar, p_bar);
            for (int m = 0; m < N; m++) {
                bar[m] += z_bar[m];
                for (int j = 0; j < s; j++) k_bar[j][m] += (s < S ? A[s][j] : B[j]) * h * z_bar[m];
            }
        }
        f_vjp(z_[i][0], p, k_bar[0], bar, p_bar);
    }
    for (; seen > 0; seen--) for (int m = 0; m < N; m++) bar[m] += ys_bar[N * (seen - 1) + m];
    memcpy(y_bar, bar, sizeof bar);
}
