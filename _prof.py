import torch, sys, time
sys.argv=sys.argv[:1]
from tests.bench.rerank import *
from vlpretrain.tasks import rerank
torch.set_num_threads(1)
torch.set_flush_denormal(True)
import os
for prec in ('fp32','bf16'):
    o=Options(pictures=64,k=64,image_size=224,depth=6,precision=prec)
    with torch.no_grad():
        p=draw(o); pairs=all_pairs(p)
        run=lambda: match_scores(p.model,p.pictures,p.texts,pairs)
        for P,L in ((256,4),(512,1),(512,2),(512,4),(512,8),(512,100),(1024,4)):
            rerank.PAIRS, rerank.LENGTH_STEP = P,L
            ts=[]
            for _ in range(2):
                t=time.process_time(); run(); ts.append(time.process_time()-t)
            print(prec,P,L,len(pairs),min(ts),flush=True)
        rerank.PAIRS, rerank.LENGTH_STEP = 512,4
        with torch.profiler.profile() as prof: run()
        print(prof.key_averages().table(sort_by='self_cpu_time_total',row_limit=14,max_name_column_width=40))
